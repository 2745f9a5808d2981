"""Linear solvers on blocks, a preconditioner, and the inverse as an operator."""
