"""Measurements of media-worker: each prints its table with the command that makes it."""
