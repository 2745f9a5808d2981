"""Functions of an operator: f(A) v and tr f(A), with quadrature brackets."""
