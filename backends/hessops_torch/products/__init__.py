"""Ways to compute Hessian products other than the plain one, and which of them is taken."""
