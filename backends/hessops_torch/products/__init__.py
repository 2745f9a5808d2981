"""Ways to compute products other than by plain backward passes, and which of them is taken."""
