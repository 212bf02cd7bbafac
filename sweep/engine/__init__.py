"""Many trials: which runs next, the loop over tuner processes, progress."""
