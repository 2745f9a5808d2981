"""The version of this package, for every module that writes it down."""

__all__ = ["__version__"]

__version__ = "0.1.0"
