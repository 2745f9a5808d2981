"""Eigenpairs: power iteration and thick-restart block Lanczos."""
