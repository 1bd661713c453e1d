"""Tests of media-worker."""
