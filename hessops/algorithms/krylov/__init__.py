"""The Lanczos recurrence and stochastic Lanczos quadrature."""
