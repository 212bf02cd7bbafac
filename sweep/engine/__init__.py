"""Execution of many trials: the queue, the loop over tuner processes, and the progress display."""
