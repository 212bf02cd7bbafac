"""One trial: training, evaluation, and its result."""
