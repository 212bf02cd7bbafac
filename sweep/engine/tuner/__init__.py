"""The child process that drives Ray Tune; nothing else here imports Ray Tune."""
