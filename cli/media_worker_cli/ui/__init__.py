"""`media-worker ui`: a page on loopback that shows the jobs of a stack and has buttons for the verbs.

Starlette and uvicorn are needed only here: they are the optional extra `media-worker[ui]`.
"""
