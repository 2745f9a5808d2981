"""Micro-batches as graphs of autograd that products go through, and that are kept between them."""
