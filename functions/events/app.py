"""The events function: ends of jobs and failed segments reach EventBridge."""

import os

from media_worker.aws import connect_event_bus
from media_worker.events import build_events_handler

handler = build_events_handler(
    connect_event_bus(),
    stack=os.environ["STACK_NAME"],
    output_bucket=os.environ["OUTPUT_BUCKET_NAME"],
)
