"""Input that somebody made to do harm, or that was broken on its way."""
