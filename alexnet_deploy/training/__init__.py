"""Training: options and schedule, the loop, pruning, and the state that survives an interruption."""
