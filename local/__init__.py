"""What a person runs on their own machine: a cloud of their own, and the command line. Never part of a layer."""
