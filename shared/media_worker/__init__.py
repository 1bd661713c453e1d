"""Cut an uploaded video into segments, and join what workers made of them: the package both functions share."""
