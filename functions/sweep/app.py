"""The sweep function: jobs that nothing can continue become failed."""

import gc
import os

# What a start makes stays: looking through it for garbage costs an eighth of a cold start (`make coldstart`).
gc.disable()

from media_worker.aws import Aws  # noqa: E402
from media_worker.settings import Settings  # noqa: E402
from media_worker.sweep import build_sweep_handler  # noqa: E402

handler = build_sweep_handler(Aws.connect(Settings.from_environment(os.environ)))

gc.freeze()
gc.enable()
