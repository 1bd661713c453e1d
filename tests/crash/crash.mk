# Crash points and hostile input. `make test` runs a sample of both.

.PHONY: crash
crash: setup ## kill and disturb every AWS call of every shape of job; print the table
	@$(BIN)/python -m tests.crash.matrix

.PHONY: hostile
hostile: setup ## take 2,000 broken and hostile media files through the chunking
	@$(BIN)/python -m tests.hostile.mutants
