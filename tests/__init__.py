"""Tests, by what they need: unit, functional, end to end; and the harness that judges engines."""
