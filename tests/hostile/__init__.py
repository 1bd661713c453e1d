"""Input that is hostile or damaged."""
