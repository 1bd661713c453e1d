"""The reassembly function: processed segments become one final."""

import os

from media_worker.aws import Aws
from media_worker.handlers import build_reassembly_handler
from media_worker.settings import Settings

handler = build_reassembly_handler(Aws.connect(Settings.from_environment(os.environ)))
