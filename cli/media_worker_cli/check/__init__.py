"""`media-worker check`: two small jobs through a deployed stack, and a table of what they proved.

One job is split by part copies in S3, the other by ffmpeg. The check is the segment worker of both. It removes
everything that it made, also after an error and after Ctrl-C.
"""
