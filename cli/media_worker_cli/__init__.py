"""The `media-worker` command. It works with a stack on AWS or with the local cloud, which is in `local`.

Nothing outside `local` imports `local` until a command needs the local cloud: that part also needs ministack, the SAM
command line and Python 3.13.
"""
