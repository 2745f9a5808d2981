"""Curvature while a network is trained."""
