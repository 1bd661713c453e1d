# Crash points and hostile input. `make test` tries a sample of both.

.PHONY: crash
crash: setup ## kill and disturb every AWS call of every shape of job; print the table
	@$(BIN)/python -m tests.crash.matrix
