"""How exact are split and join? Runs an engine over media files and compares the final with the source."""
