"""Everything hessops raises or warns of by a name of its own."""

__all__ = [
    "CheckpointError",
    "ConvergenceError",
    "ConvergenceWarning",
    "NonFiniteError",
    "NotSelfAdjointError",
]


class CheckpointError(ValueError):
    """A record of products is of another run, in use or damaged."""


class NonFiniteError(ArithmeticError):
    """A product with the operator held NaN or infinity."""


class NotSelfAdjointError(ValueError):
    """An operator is not, or is not declared, self-adjoint where it has to be."""


class ConvergenceError(RuntimeError):
    """A result that did not converge was asked to raise."""


class ConvergenceWarning(UserWarning):
    """A result did not reach the accuracy asked for; its status says what to try next."""
