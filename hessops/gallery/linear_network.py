"""The Hessian of a two-layer linear network at the origin, a saddle, in closed form."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.gallery.softmax import finite_matrix
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.structure import SELF_ADJOINT

__all__ = ["LinearNetworkHessian", "linear_network_hessian"]


def linear_network_hessian(
    features: Array, targets: Array, num_hidden: int, **options: Unpack[SpaceOptions]
) -> Problem:
    r"""Return the Hessian of a linear network with one hidden layer where all weights are zero.

    The loss is :math:`\frac{1}{2 N} \sum_i \| y_i - W_2 W_1 x_i \|^2`, without biases; the parameters
    are those of W_1, of shape (hidden, d), row by row, and then of W_2, of shape (outputs, hidden).
    The origin is a saddle [1]_: with :math:`X^T Y / N = U \Sigma V^T`, the eigenvalues are
    :math:`+\sigma_i` and :math:`-\sigma_i`, each as often as there are hidden units, and otherwise
    zero. The singular values come from a dense solver.

    Parameters
    ----------
    features : array, shape (N, d)
        X, a sample in every row, of any library.
    targets : array, shape (N, outputs)
        Y.
    num_hidden : int
        Number of hidden units.
    **options
        `dtype`, `xp` and `device` of the operator, as for `ArraySpace`.

    Returns
    -------
    Problem
        Indefinite, of dimension hidden * (d + outputs), with trace 0.

    Raises
    ------
    ValueError
        If features or targets are not matrices of finite numbers with equally many rows, or
        `num_hidden` is not positive.

    References
    ----------
    .. [1] A. M. Saxe, J. L. McClelland, S. Ganguli (2014). Exact solutions to the nonlinear dynamics
       of learning in deep linear neural networks. *International Conference on Learning
       Representations*.

    Examples
    --------
    >>> import numpy as np, hessops.gallery
    >>> X, Y = np.eye(2), np.array([[6.0], [8.0]])
    >>> problem = hessops.gallery.linear_network_hessian(X, Y, 3)
    >>> values, multiplicities = problem.levels()
    >>> values.round(6), multiplicities
    (array([-5.,  0.,  5.]), array([3, 3, 3]))
    """
    X, Y = finite_matrix("features", features), finite_matrix("targets", targets)
    require_at_least(1, num_hidden=num_hidden)
    if len(X) != len(Y):
        raise ValueError(f"there are {len(X)} rows of features and {len(Y)} of targets")
    correlation = X.T @ Y / len(X)
    d, outputs = correlation.shape
    space = array_space(num_hidden * (d + outputs), **options)
    return Problem(
        name=f"linear_network_hessian({len(X)}x{d}, {len(X)}x{outputs}, {num_hidden})",
        operator=LinearNetworkHessian(space, space.from_host(correlation), num_hidden),
        spectrum=lambda: _eigenvalues(correlation, num_hidden),
        closed_trace=0.0,
    )


class LinearNetworkHessian(LinearOperator):
    """The Hessian that couples the two layers by the correlation of features and targets.

    Parameters
    ----------
    space : Space
        Of dimension num_hidden * (d + outputs), all rows held here.
    correlation : array, shape (d, outputs)
        X^T Y / N, on the device of the space.
    num_hidden : int
        Number of hidden units.
    """

    def __init__(self, space: Space, correlation: Array, num_hidden: int) -> None:
        super().__init__(space, structure=SELF_ADJOINT)
        self.correlation = correlation
        self.num_hidden = num_hidden

    def _apply(self, X: Array) -> Array:
        xp, hidden, count = self.xp, self.num_hidden, X.shape[1]
        d, outputs = self.correlation.shape
        first = xp.reshape(X[: hidden * d, :], (hidden, d, count))
        second = xp.reshape(X[hidden * d :, :], (outputs, hidden, count))
        # The gradients of -tr(W_2 W_1 X^T Y / N): each layer's is the other, times the correlation.
        of_first = self.correlation @ xp.permute_dims(second, (1, 0, 2))
        of_second = xp.permute_dims(xp.matrix_transpose(self.correlation) @ first, (1, 0, 2))
        stacked: Array = xp.concat(
            [
                xp.reshape(of_first, (hidden * d, count)),
                xp.reshape(of_second, (outputs * hidden, count)),
            ],
            axis=0,
        )
        return -stacked

    def _describe(self) -> str:
        return f"{self.num_hidden} hidden units"


def _eigenvalues(correlation: HostArray, num_hidden: int) -> HostArray:
    singular = np.linalg.svd(correlation, compute_uv=False)
    zeros = num_hidden * abs(correlation.shape[0] - correlation.shape[1])
    pairs = np.repeat(np.concatenate([singular, -singular]), num_hidden)
    return np.concatenate([pairs, np.zeros(zeros)])
