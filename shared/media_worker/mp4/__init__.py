"""MP4 files by their index alone: read it, cut a film in pieces, join pieces to a film. Pure: no network, no programs."""
