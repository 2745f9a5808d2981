"""What budgets of traces are counted in: forward passes over the data, and products worth so many."""

from __future__ import annotations

__all__ = ["BUILD", "DEFAULT_PRODUCTS", "GRADIENT", "LEAST_PRODUCTS", "MOST_PRODUCTS", "PRODUCT"]

GRADIENT = 3.0
"""Forward passes that a gradient costs."""
BUILD = 3.0
"""Forward passes that it costs to build a graph of gradients."""
PRODUCT = 6.0
"""Forward passes that a Hessian product costs through a graph that was kept; a probe is one."""

DEFAULT_PRODUCTS, MOST_PRODUCTS = 32, 1000
"""Products to spend where no number is given, at most if there is a tolerance."""
LEAST_PRODUCTS = 8
"""Products with which a pilot pays."""
