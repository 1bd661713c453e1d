# The local cloud. `make demo SOURCE=my.mp4 SEGMENT_SECONDS=20 OUT=out/my.mp4`

SOURCE ?=
SEGMENT_SECONDS ?= 10
OUT ?= out/final.mp4

# The sample is encoded before `media-worker run` starts the local cloud.
.PHONY: demo
demo: setup ## split, process and join a video in the local cloud: SOURCE=my.mp4 SEGMENT_SECONDS=20
	@$(BIN)/media-worker run "$(or $(SOURCE),$$($(BIN)/python -m media_worker_cli.local.sample))" --out "$(OUT)" \
		--segment-seconds "$(SEGMENT_SECONDS)"

.PHONY: up
up: setup ## start the local cloud with this checkout's stack
	@$(BIN)/media-worker up

.PHONY: down
down: setup ## stop the local cloud
	@$(BIN)/media-worker down

# Uses SOURCE and SEGMENT_SECONDS too. DOCKER_HOST names another container engine.
.PHONY: sam-local
sam-local: setup ## split and join a video in containers (`sam local invoke`): SAM_LOCAL_FLAGS=--skip-pull-image
	@SAM_LOCAL_FLAGS="$(SAM_LOCAL_FLAGS)" $(BIN)/python -m media_worker_cli.local.sam_local \
		$(if $(SOURCE),"$(SOURCE)") --segment-seconds "$(SEGMENT_SECONDS)"
