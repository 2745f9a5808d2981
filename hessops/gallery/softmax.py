"""The Hessian of softmax regression at the origin, in closed form."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from hessops.arrays import Array, HostArray, to_numpy
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.problem import Problem
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.structure import POSITIVE_SEMIDEFINITE

__all__ = ["SoftmaxHessian", "finite_matrix", "softmax_hessian"]


def softmax_hessian(features: Array, num_classes: int, **options: Unpack[SpaceOptions]) -> Problem:
    r"""Return the Hessian of the mean cross-entropy of a linear classifier with zero weights.

    The logits of a sample x are W x, without a bias, and the weights W, of shape (classes, d), are
    numbered row by row, as in ``torch.nn.Linear``. Where W = 0, every class has probability 1 / K and
    the Hessian does not depend on the labels [1]_:

    .. math:: H = \left(\frac{I}{K} - \frac{\mathbf 1 \mathbf 1^T}{K^2}\right) \otimes
              \frac{X^T X}{N}.

    Its eigenvalues are those of X^T X / N divided by K, each K - 1 times, and d zeros. Those of X^T X
    / N are the squared singular values of X, by a dense solver.

    Parameters
    ----------
    features : array, shape (N, d)
        X, a sample in every row, of any library.
    num_classes : int
        Number of classes, K.
    **options
        `dtype`, `xp` and `device` of the operator, as for `ArraySpace`.

    Returns
    -------
    Problem
        Positive semidefinite and singular, of dimension K d.

    Raises
    ------
    ValueError
        If the features are not a matrix of finite numbers, or `num_classes` is smaller than 2.

    References
    ----------
    .. [1] D. Böhning (1992). Multinomial logistic regression algorithm. *Annals of the Institute of
       Statistical Mathematics* 44, 197-200.

    Examples
    --------
    >>> import numpy as np, hessops.gallery
    >>> problem = hessops.gallery.softmax_hessian(np.sqrt(2) * np.eye(2), 3)
    >>> values, multiplicities = problem.levels()
    >>> values.round(6), multiplicities
    (array([0.      , 0.333333]), array([2, 4]))
    """
    X = finite_matrix("features", features)
    require_at_least(2, num_classes=num_classes)
    num_samples, d = X.shape
    space = array_space(num_classes * d, **options)
    gram = space.from_host(X.T @ X / num_samples)
    return Problem(
        name=f"softmax_hessian({num_samples}x{d}, {num_classes})",
        operator=SoftmaxHessian(space, gram, num_classes),
        spectrum=lambda: _eigenvalues(X, num_classes),
        closed_trace=(1 - 1 / num_classes) * float(np.sum(X**2)) / num_samples,
    )


class SoftmaxHessian(LinearOperator):
    """The Kronecker product of the covariance of uniform classes and a Gram matrix.

    Parameters
    ----------
    space : Space
        Of dimension num_classes * d, all rows held here.
    gram : array, shape (d, d)
        X^T X / N, on the device of the space.
    num_classes : int
        Number of classes.
    """

    def __init__(self, space: Space, gram: Array, num_classes: int) -> None:
        super().__init__(space, structure=POSITIVE_SEMIDEFINITE)
        self.gram = gram
        self.num_classes = num_classes

    def _apply(self, X: Array) -> Array:
        xp = self.xp
        logits = self.gram @ xp.reshape(X, (self.num_classes, self.gram.shape[0], X.shape[1]))
        centred = (logits - xp.mean(logits, axis=0, keepdims=True)) / self.num_classes
        product: Array = xp.reshape(centred, X.shape)
        return product

    def _describe(self) -> str:
        return f"{self.num_classes} classes"


def finite_matrix(name: str, matrix: Array) -> HostArray:
    """Return a matrix on the host in double precision.

    Parameters
    ----------
    name : str
        What it is called in a message.
    matrix : array, shape (N, d)
        Of any library.

    Returns
    -------
    numpy.ndarray, shape (N, d)
        The matrix.

    Raises
    ------
    ValueError
        If it is no matrix of finite real numbers, or is empty.
    """
    host = to_numpy(matrix)
    if host.ndim != 2 or 0 in host.shape or host.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be a real matrix with a sample in every row, got {host.dtype} of shape "
            f"{host.shape}"
        )
    if not np.all(np.isfinite(host)):
        raise ValueError(f"{name} hold NaN or infinite entries; remove those samples first")
    return host.astype(np.float64)


def _eigenvalues(X: HostArray, num_classes: int) -> HostArray:
    num_samples, d = X.shape
    curvatures = np.zeros(d)
    singular = np.linalg.svd(X, compute_uv=False)
    curvatures[: len(singular)] = singular**2 / (num_samples * num_classes)
    return np.concatenate([np.repeat(curvatures, num_classes - 1), np.zeros(d)])
