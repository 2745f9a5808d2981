"""Data as micro-batches that never change, and the random states that reading it leaves alone."""
