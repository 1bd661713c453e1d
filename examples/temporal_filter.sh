#!/bin/sh
# A segment worker with a temporal filter: each frame is averaged with up to four frames before it and four after it, as
# a model with temporal context would do. It filters the whole segment with its context frames, and then drops the context.
#
#   media-worker run video.mp4 --context-frames 8 --segment-command 'examples/temporal_filter.sh {input} {output}' --out final.mp4
#
# MEDIA_WORKER_CONTEXT_BEFORE and MEDIA_WORKER_FRAMES say which frames are the segment's own. Their audio is left out:
# the final gets the source's.
set -eu
first=${MEDIA_WORKER_CONTEXT_BEFORE:-0}
filter="atadenoise=s=9:0a=0.3:0b=0.3:1a=0.3:1b=0.3:2a=0.3:2b=0.3,trim=start_frame=$first:end_frame=$((first + MEDIA_WORKER_FRAMES)),setpts=PTS-STARTPTS"
exec ffmpeg -nostdin -v error -y -i "$1" -map 0:v:0 -vf "$filter" -fps_mode passthrough -c:v libx264 -preset fast -qp 0 "$2"
