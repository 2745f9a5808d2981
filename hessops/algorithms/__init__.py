"""Algorithms: each an engine that yields states, and a verb on top that stops and reports."""
