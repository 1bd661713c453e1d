# Crash points and hostile input. `make test` runs a sample of both.

.PHONY: crash
crash: setup ## inject crashes and errors at every AWS call of every kind of job; print the table
	@$(BIN)/python -m tests.crash.matrix

.PHONY: hostile
hostile: setup ## run the chunking with 2,000 broken and hostile media files
	@$(BIN)/python -m tests.hostile.mutants
