"""Directions in the space of parameters to look along."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from hessops.random import Purpose, RandomState, Stream, seed_from
from hessops.results.eigenpairs import EigenResult
from hessops_torch.objective.objective import Objective

__all__ = ["as_directions", "filter_normalized"]


def filter_normalized(objective: Objective, num_directions: int, rng: RandomState) -> Tensor:
    """Return random directions whose filters are as long as those of the parameters.

    A network whose layers are followed by a normalisation, or whose neighbours are scaled against each
    other, computes the same with other weights; a step of one length is then long for one and short
    for the other. Scaled so, filter by filter, slices of different networks can be compared.

    Parameters
    ----------
    objective : Objective
        Whose parameters, as they are now, are looked at.
    num_directions : int
        How many.
    rng : int, numpy.random.Generator or None
        Where they come from.

    Returns
    -------
    torch.Tensor, shape (n, num_directions)
        Zero for parameters of one axis (biases, weights of normalisations), whose scale says nothing.

    Raises
    ------
    ValueError
        If no parameter has two axes.

    References
    ----------
    Li, Xu, Taylor, Studer & Goldstein (2018), NeurIPS.

    Examples
    --------
    >>> import torch
    >>> from hessops_torch import Objective
    >>> from hessops_torch.landscapes.directions import filter_normalized
    >>> model = torch.nn.Linear(3, 2)
    >>> objective = Objective(model, torch.nn.MSELoss(), [(torch.eye(3), torch.zeros(3, 2))])
    >>> direction = filter_normalized(objective, 1, rng=0)
    >>> parts = objective.domain.unflatten(direction[:, 0])
    >>> torch.allclose(parts["weight"].norm(dim=1), model.weight.norm(dim=1))
    True
    """
    space = objective.domain
    stream = Stream(seed_from(rng), Purpose.SKETCH)
    directions = cast(Tensor, space.probes(stream, range(num_directions), "normal"))
    for column in directions.T:
        parts = space.unflatten(column)
        for name, parameter in objective.selection.current().items():
            part, weight = parts[name], parameter.detach()
            if weight.ndim < 2:
                part.zero_()
                continue
            axes = tuple(range(1, weight.ndim))
            own = torch.linalg.vector_norm(part, dim=axes, keepdim=True)
            part *= torch.linalg.vector_norm(weight, dim=axes, keepdim=True) / own
    if not bool((torch.linalg.vector_norm(directions, dim=0) > 0).all()):
        raise ValueError(
            "no parameter has filters (two axes, and values that are not zero), so that there is "
            "nothing to normalise random directions by: give directions of your own"
        )
    return directions


def as_directions(
    objective: Objective, directions: Any, dimension: int, rng: RandomState
) -> tuple[Tensor, tuple[str, ...]]:
    """Return one or two directions as columns, and what they are.

    Parameters
    ----------
    objective : Objective
        Whose parameters they are for.
    directions : 'random', EigenResult, torch.Tensor, or sequence of torch.Tensor
        Where from.
    dimension : int
        How many to take of those that are many: 1 or 2.
    rng : int, numpy.random.Generator or None
        Where random ones come from.

    Returns
    -------
    (torch.Tensor, tuple of str)
        Of shape (n, 1) or (n, 2), in the parameters' precision; and a label each.

    Raises
    ------
    ValueError
        If their size, or their number, does not fit, or one is zero or not finite.
    TypeError
        If they are of another kind.
    """
    space = objective.domain
    if dimension not in {1, 2}:
        raise ValueError(f"dimension={dimension!r}: a slice has dimension 1 or 2")
    if isinstance(directions, str):
        if directions != "random":
            raise ValueError(
                f"directions={directions!r} is unknown: 'random', a result of hessops.eigsh, or vectors"
            )
        labels = tuple(f"random direction {i + 1}" for i in range(dimension))
        return filter_normalized(objective, dimension, rng), labels
    if isinstance(directions, EigenResult):
        values = directions.eigenvalues[:dimension]
        labels = tuple(f"eigenvector of {value:.4g}" for value in values)
        columns = torch.as_tensor(directions.eigenvectors)[:, :dimension]
    else:
        columns = _columns(directions, space.dim)[:, :dimension]
        labels = tuple(f"direction {i + 1}" for i in range(columns.shape[1]))
    if columns.shape != (space.dim, dimension):
        raise ValueError(
            f"directions have shape {tuple(columns.shape)}; a slice of dimension {dimension} takes "
            f"({space.dim}, {dimension}), a flat vector per column"
        )
    columns = columns.detach().to(space.device, space.dtype)
    norms = torch.linalg.vector_norm(columns, dim=0)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise ValueError(
            f"directions have the norms {norms.tolist()}: none may be zero or infinite"
        )
    return columns, labels


def _columns(directions: Any, dim: int) -> Tensor:
    if torch.is_tensor(directions):
        return directions[:, None] if directions.ndim == 1 else directions
    if (
        isinstance(directions, tuple | list)
        and all(map(torch.is_tensor, directions))
        and directions
    ):
        sizes = {tuple(vector.shape) for vector in directions}
        if sizes != {(dim,)}:
            raise ValueError(f"directions have shapes {sorted(sizes)}; each must be ({dim},)")
        return torch.stack(list(directions), dim=1)
    raise TypeError(
        f"directions are a {type(directions).__name__}: give 'random', a result of hessops.eigsh, a "
        "tensor with a flat vector per column, or a list of flat vectors"
    )
