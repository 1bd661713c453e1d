"""The local cloud: ministack on this machine, with this checkout's stack deployed into it."""
