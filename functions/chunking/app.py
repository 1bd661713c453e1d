"""The chunking function: S3 events from the chunking queue become segments."""

import os

from media_worker.aws import Aws
from media_worker.handlers import build_chunking_handler
from media_worker.settings import Settings

handler = build_chunking_handler(Aws.connect(Settings.from_environment(os.environ)))
