"""Traces and diagonals by random probes."""
