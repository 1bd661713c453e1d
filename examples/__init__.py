"""Programs to start one's own from."""
