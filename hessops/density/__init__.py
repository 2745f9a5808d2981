"""A spectral density, and what else the same Lanczos run shows of it."""
