# The functions in containers. `make sam-local SAM_LOCAL_FLAGS=--skip-pull-image` where the image is there already.
# SOURCE and SEGMENT_SECONDS are the demo's; DOCKER_HOST names another engine.

.PHONY: sam-local
sam-local: setup ## cut and join a video with `sam local invoke`, in containers: SAM_LOCAL_FLAGS=--skip-pull-image
	@SAM_LOCAL_FLAGS="$(SAM_LOCAL_FLAGS)" $(BIN)/python -m local.sam_local $(if $(SOURCE),"$(SOURCE)") \
		--segment-seconds "$(SEGMENT_SECONDS)"
