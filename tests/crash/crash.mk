# Crash points and hostile input. `make test` runs a sample of both.

.PHONY: crash
crash: setup ## inject crashes and errors at every AWS call of every kind of job; print the table
	@$(BIN)/python -m tests.crash.matrix
	@SWEEP_CALLS_EVERY=1 $(BIN)/pytest -q tests/functional/test_sweep.py -k at_every_call

ATTEMPTS_EXAMPLES ?= 100
.PHONY: attempts
attempts: setup ## attempts with changing sources, settings and code as a state machine: many examples, with real media
	@ATTEMPTS_EXAMPLES=$(ATTEMPTS_EXAMPLES) $(BIN)/pytest -q --timeout=0 tests/crash/test_attempts_model.py

.PHONY: hostile
hostile: setup ## run the chunking with 2,000 broken and hostile media files
	@$(BIN)/python -m tests.hostile.mutants
