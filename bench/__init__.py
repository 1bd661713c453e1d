"""Benchmarks of media-worker. Each prints a table."""
