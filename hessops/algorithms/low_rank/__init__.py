"""Low-rank approximations by random sketches."""
