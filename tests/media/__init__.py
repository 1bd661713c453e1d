"""Clips for the tests, and an inspection of media that shares no code with the product."""
