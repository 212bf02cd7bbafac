"""The tuner: a child process that drives Ray Tune, and the only part of `sweep.engine` that imports it."""
