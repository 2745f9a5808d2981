"""Traces of a network's Hessian and Gauss-Newton matrix, by probes and by gradients of samples."""
