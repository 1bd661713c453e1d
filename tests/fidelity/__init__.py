"""How exact is a split and join? Runs an engine over media files and compares what comes out with what went in."""
