"""The loss along one direction, or in a plane, with the curvature at the centre drawn over it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hessops.algorithms._common import require_positive
from hessops.arrays import HostArray
from hessops.blocks.rounding import ROUNDINGS
from hessops.random import RandomState, seed_from
from hessops.record import History
from hessops.result import Result
from hessops_torch.landscapes.directions import as_directions
from hessops_torch.landscapes.slice_losses import SliceLosses
from hessops_torch.losses.loss import Loss
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.model.state import Mode
from hessops_torch.objective.finite_losses import require_finite_losses
from hessops_torch.objective.objective import Objective
from hessops_torch.objective.passes import summed_gradient
from hessops_torch.operators.arguments import objective_of
from hessops_torch.operators.hessian import Hessian

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Landscape", "landscape"]

_POINTS = {1: 51, 2: 25}


def landscape(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    directions: Any = "random",
    dimension: int | None = None,
    extent: float | Sequence[float] = 1.0,
    num_points: int | None = None,
    points_per_pass: int | None = None,
    params: ParameterSelection = None,
    mode: Mode | None = None,
    micro_batch_size: int | None = None,
    rng: RandomState = None,
) -> Landscape:
    """Evaluate a loss over a data set along one direction from the parameters, or in a plane of two.

    The value at a point is Σ sums / Σ counts over all batches, as for `hessian`, however ragged they
    are. Each point costs a forward pass over the data, and the curvature at the centre, which is not
    read off the points, a product and a gradient for each direction.

    Parameters
    ----------
    model : torch.nn.Module
        The model, left as it was found.
    loss : torch.nn.Module or callable
        As `hessian` takes it.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        The same in every pass.
    directions : 'random', EigenResult, torch.Tensor of shape (n, d), or sequence of torch.Tensor
        Random directions with filters as long as the parameters' (Li et al. 2018), the first
        eigenvectors of `hessops.eigsh`, or flat vectors. They are not scaled.
    dimension : {1, 2}, optional
        A line or a plane; where not given, 2 if two vectors are given, otherwise 1.
    extent : float or sequence of float
        The slice reaches from ``-extent`` to ``extent`` times each direction.
    num_points : int, optional
        Along each direction, 51 for a line and 25 for a plane where not given; made odd, so that the
        centre is among them.
    points_per_pass : int, optional
        Points to evaluate in one forward pass, by `torch.func.vmap`. Where not given, 1 or 8, whichever
        the first batch shows to be faster. 1 where the model cannot be vectorised, or gives other
        numbers.
    params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
        As for `hessian`; the others stay where they are.
    mode : {'eval', 'train'}, optional
        Mode of the model; as it stands where not given.
    micro_batch_size : int, optional
        As for `hessian`.
    rng : int, numpy.random.Generator or None
        Where random directions come from.

    Returns
    -------
    Landscape
        Losses on the grid, slopes and curvatures at its centre; it can be drawn and saved.

    Raises
    ------
    ValueError
        If an option is out of range, a direction does not fit, or `hessian` refuses model, loss or
        data.
    TypeError
        If something is of a kind that is not understood.
    NonFiniteError
        If the loss at the centre is NaN or infinite. Elsewhere it may be, and the status says so.

    Notes
    -----
    Slopes and curvatures are what autograd says. The row that an embedding's `padding_idx` names has no
    derivative for it, and yet moves in a slice along a direction that is not zero there.

    References
    ----------
    Li, Xu, Taylor, Studer & Goldstein (2018), NeurIPS.

    Examples
    --------
    >>> import torch
    >>> from hessops_torch import landscape
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> data = [(torch.eye(2), torch.ones(2, 1))]
    >>> found = landscape(model, torch.nn.MSELoss(), data, directions=torch.tensor([3.0, 4.0]))
    >>> round(float(found.curvatures[0, 0]), 4)
    25.0
    >>> bool(abs(found.losses - found.quadratic()).max() < 1e-4)
    True
    """
    seed = seed_from(rng)
    if dimension is None:
        dimension = _dimension(directions)
    clock = time.perf_counter()
    objective = objective_of(model, loss, data, params, mode, micro_batch_size, memory_budget=0)
    columns, labels = as_directions(objective, directions, dimension, seed)
    axes = _axes(dimension, extent, num_points)
    require_positive(points_per_pass=points_per_pass)
    slopes, curvatures = _derivatives(objective, columns)
    losses, method = SliceLosses(objective, columns).on_grid(axes, points_per_pass)
    finite = np.isfinite(losses)
    unknown = int(losses.size - finite.sum())
    size = float(np.max(np.abs(losses[finite])))
    return Landscape(
        coordinates=tuple(axes),
        losses=losses,
        slopes=slopes,
        curvatures=curvatures,
        norms=torch.linalg.vector_norm(columns.double(), dim=0).cpu().numpy(),
        labels=labels,
        method=method,
        rounding=ROUNDINGS * torch.finfo(columns.dtype).eps * size,
        num_products=dimension,
        status=f"{losses.size} points {method}"
        + (f"; the loss of {unknown} of them is NaN or infinite" if unknown else ""),
        converged=unknown == 0,
        history=History(),
        seed=seed if isinstance(directions, str) else None,
        seconds=time.perf_counter() - clock,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Landscape(Result):
    """The loss on a grid of one or two directions, and its derivatives at the centre.

    Parameters
    ----------
    coordinates : tuple of numpy.ndarray, shape (p,)
        Multiples of each direction; 0 is in the middle.
    losses : numpy.ndarray, shape (p,) or (p, q)
        Indexed as the coordinates.
    slopes : numpy.ndarray, shape (d,)
        Derivatives of the loss along the directions, g·d, at the centre.
    curvatures : numpy.ndarray, shape (d, d)
        Second derivatives, d'Hd, from products at the centre.
    norms : numpy.ndarray, shape (d,)
        Of the directions.
    labels : tuple of str
        What the directions are.
    method : str
        How many points were evaluated in a pass, and why.
    rounding : float
        Losses may be off by that much: 32 machine epsilons of the largest. There is no other error.
    """

    coordinates: tuple[HostArray, ...]
    losses: HostArray
    slopes: HostArray
    curvatures: HostArray
    norms: HostArray
    labels: tuple[str, ...]
    method: str
    rounding: float

    @property
    def center(self) -> float:
        """Return the loss at the centre."""
        return float(self.losses[tuple(len(axis) // 2 for axis in self.coordinates)])

    def quadratic(self, *coordinates: Any) -> HostArray:
        """Return what slope and curvature at the centre predict.

        Parameters
        ----------
        *coordinates : float or numpy.ndarray
            One for each direction, to be broadcast; the grid where not given.

        Returns
        -------
        numpy.ndarray
            The loss at the centre, plus ``g·d t + t' D'HD t / 2``.

        Raises
        ------
        ValueError
            If there are more or fewer coordinates than directions.
        """
        if not coordinates:
            coordinates = tuple(np.meshgrid(*self.coordinates, indexing="ij"))
        if len(coordinates) != len(self.coordinates):
            raise ValueError(
                f"{len(coordinates)} coordinates given for {len(self.coordinates)} directions"
            )
        t = np.stack(np.broadcast_arrays(*coordinates), axis=-1).astype(np.float64)
        bent = np.einsum("...i,ij,...j->...", t, self.curvatures, t)
        return np.asarray(self.center + t @ self.slopes + bent / 2)

    def plot(self, ax: Axes | None = None, *, surface: bool = False) -> Axes:
        """Draw the loss, and over it what the curvature at the centre predicts.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure where not given. For a surface one of three dimensions.
        surface : bool
            Draw a plane as a surface, instead of by contours.

        Returns
        -------
        matplotlib.axes.Axes
            What was drawn on.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If a surface is asked for of a line.
        """
        from hessops_torch.landscapes.plot import plot_landscape

        return plot_landscape(self, ax, surface=surface)

    def __str__(self) -> str:
        rows = [
            f"      {label} (norm {norm:.4g}): slope {slope:.4g}, curvature {curvature:.4g}"
            for label, norm, slope, curvature in zip(
                self.labels, self.norms, self.slopes, np.diag(self.curvatures), strict=True
            )
        ]
        finite = self.losses[np.isfinite(self.losses)]
        summary = (
            f"loss {self.center:.6g} at the centre, {finite.min():.6g} to {finite.max():.6g} in the "
            f"slice ({self._cost()}); {self.status}"
        )
        return "\n".join([summary, *rows])


def _dimension(directions: Any) -> int:
    """Return 2 where two vectors are given."""
    if torch.is_tensor(directions):
        return 2 if directions.ndim == 2 and directions.shape[1] >= 2 else 1
    return 2 if isinstance(directions, tuple | list) and len(directions) >= 2 else 1


def _axes(
    dimension: int, extent: float | Sequence[float], num_points: int | None
) -> list[HostArray]:
    """Return the coordinates of the grid, 0 in the middle."""
    extents = list(extent) if isinstance(extent, Sequence) else [extent] * dimension
    if len(extents) != dimension or not all(math.isfinite(e) and e > 0 for e in extents):
        raise ValueError(
            f"extent={extent!r} must be a positive number, or one for each of {dimension} directions"
        )
    count = _POINTS[dimension] if num_points is None else num_points
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 3:
        raise ValueError(f"num_points={num_points!r} must be an integer, at least 3")
    half = count // 2
    # The middle is exactly 0, and the slice symmetric.
    return [np.arange(-half, half + 1) / half * float(e) for e in extents]


def _derivatives(objective: Objective, columns: Tensor) -> tuple[HostArray, HostArray]:
    """Return slopes and curvatures at the centre."""
    with objective.ready():
        gradient, totals, counts = summed_gradient(objective)
        require_finite_losses(totals)
        gradient /= objective.divisor(counts)
    products = cast(Tensor, Hessian(objective).apply(columns))
    wide = columns.double()
    slopes, curvatures = wide.T @ gradient.double(), wide.T @ products.double()
    return slopes.cpu().numpy(), ((curvatures + curvatures.T) / 2).cpu().numpy()
