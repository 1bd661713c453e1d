# The local cloud and the demo. `make demo SOURCE=my.mp4 SEGMENT_SECONDS=20 OUT=out/my.mp4`

SOURCE ?=
SEGMENT_SECONDS ?= 10
OUT ?= out/final.mp4

# The sample is made here, so that Ctrl-C during it starts nothing. make says nothing of its own when a command ends
# with an error: media-worker has said it.
.PHONY: demo
demo: setup ## take a video through the pipeline on this machine: SOURCE=my.mp4 SEGMENT_SECONDS=20
	@$(BIN)/media-worker run "$(or $(SOURCE),$$($(BIN)/python -m local.sample))" --out "$(OUT)" \
		--segment-seconds "$(SEGMENT_SECONDS)"

.PHONY: up
up: setup ## start the local cloud with this checkout's stack
	@$(BIN)/media-worker up

.PHONY: down
down: setup ## stop the local cloud
	@$(BIN)/media-worker down
