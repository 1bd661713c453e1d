# What a cold start costs.

.PHONY: coldstart
coldstart: setup ## what importing a handler costs, against boto3 alone
	@$(BIN)/python -m bench.coldstart
