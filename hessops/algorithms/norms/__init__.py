"""Norms, condition, counts and ranks."""
