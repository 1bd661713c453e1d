# The import time of a cold start.

.PHONY: coldstart
coldstart: setup ## measure the import time of each handler, compared with boto3 alone
	@$(BIN)/python -m bench.coldstart
