# Size and time of a deployment.

ARCHITECTURES ?= x86_64 arm64

.PHONY: sizes
sizes: setup ## print the size of each layer and function; fails above 90 MB in total
	@mkdir -p .cache/sizes
	@for architecture in $(ARCHITECTURES); do \
		echo "$$architecture"; \
		PATH="$(abspath $(BIN)):$$PATH" SAM_CLI_TELEMETRY=0 $(BIN)/sam build --cached --parameter-overrides "Architecture=$$architecture" \
			--build-dir ".cache/sizes/$$architecture" --cache-dir .cache/sizes/cache >.cache/sizes/log 2>&1 \
			|| { cat .cache/sizes/log; exit 1; }; \
		$(BIN)/python -m bench.sizes ".cache/sizes/$$architecture" || exit 1; \
	done

.PHONY: bench-deploy
bench-deploy: setup ## time sam build and sam deploy without caches, with only sam, make and python3 with pip on the PATH
	@$(BIN)/python -m bench.cold_deploy $(ARCHITECTURES)
