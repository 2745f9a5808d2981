"""What `layer_curvature` is asked for: blocks, budgets and ways to estimate traces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Literal, get_args

from hessops.algorithms._common import require_real, square_operator
from hessops.arrays import is_complex
from hessops.operator import LinearOperator
from hessops_torch.layers.traces import LayerRequest, LayerTraces, by_gauss_newton, by_probes
from hessops_torch.model.parameter_blocks import BlockSelection, Each, parameter_blocks
from hessops_torch.operators.data_sum import DataSum
from hessops_torch.traces.hessian_trace import shows_gauss_newton
from hessops_torch.traces.units import DEFAULT_PRODUCTS, LEAST_PRODUCTS, MOST_PRODUCTS

__all__ = [
    "LayerMethod",
    "layer_budget",
    "members_of",
    "real_operator",
    "require_fitting",
    "require_not_negative",
    "size_of",
    "way_of_traces",
]

LayerMethod = Literal["auto", "probes", "gauss-newton"]
"""Ways to estimate the traces of blocks."""


def layer_budget(num_probes: int | None, max_products: int | None, *, adaptive: bool) -> int:
    """Return the products that `layer_curvature` spends, at most if there is a tolerance.

    Parameters
    ----------
    num_probes, max_products : as for `layer_curvature`
        What is asked for.
    adaptive : bool
        Whether there is a tolerance.

    Returns
    -------
    int
        Products with the whole operator.
    """
    return num_probes or max_products or (MOST_PRODUCTS if adaptive else DEFAULT_PRODUCTS)


def require_not_negative(**counts: int) -> None:
    """Raise if a number is negative or no whole one.

    Parameters
    ----------
    **counts : int
        By name.

    Raises
    ------
    ValueError
        With its name.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
            raise ValueError(f"{name}={count!r} must not be negative, and whole; 0 leaves them out")


def require_fitting(
    method: str, rtol: float | None, num_probes: int | None, max_products: int | None
) -> None:
    """Raise if options of `layer_curvature` do not go with each other.

    Parameters
    ----------
    method, rtol, num_probes, max_products : as for `layer_curvature`
        What is asked for.

    Raises
    ------
    ValueError
        With the option that is out of range.
    """
    if method not in get_args(LayerMethod):
        raise ValueError(
            f"method={method!r} is unknown; choose one of {', '.join(get_args(LayerMethod))}"
        )
    if rtol is not None:
        require_real(rtol=rtol)
        if not (math.isfinite(rtol) and rtol > 0):
            raise ValueError(f"rtol={rtol} must be positive and finite")
    if num_probes is not None and (method == "gauss-newton" or max_products is not None):
        raise ValueError(
            f"num_probes={num_probes} counts the probes of method='probes': give max_products alone "
            "for method='gauss-newton'"
        )


def way_of_traces(
    operator: LinearOperator, method: str, budget: int, *, plain: bool
) -> Callable[[Any, Mapping[str, tuple[str, ...]], LayerRequest], LayerTraces]:
    """Return what estimates the traces.

    Parameters
    ----------
    operator : LinearOperator
        Of `layer_curvature`.
    method : str
        Asked for.
    budget : int
        Products that may be spent.
    plain : bool
        Whether an option is given that is one of plain probes.

    Returns
    -------
    callable
        `by_gauss_newton` or `by_probes`.

    Raises
    ------
    TypeError
        If the method is not for the operator.
    ValueError
        If it is unknown, or does not go with the other options.
    """
    fits = shows_gauss_newton(operator)
    if method == "gauss-newton":
        if not fits:
            raise TypeError(
                "method='gauss-newton' is for what hessops_torch.hessian makes, in one process, of a "
                "loss that shows the outputs and in the precision of the model, and "
                f"{operator} is not: take method='probes'"
            )
        if plain:
            raise ValueError(
                "method='gauss-newton' chooses its own probes: leave probe, stratify and block_size "
                "out"
            )
        if budget < LEAST_PRODUCTS:
            raise ValueError(
                f"max_products={budget} does not pay for a pilot: give {LEAST_PRODUCTS} or more, or "
                "take method='probes'"
            )
        return by_gauss_newton
    pays = fits and not plain and budget >= LEAST_PRODUCTS
    return by_gauss_newton if pays and method == "auto" else by_probes


def real_operator(H: Any) -> LinearOperator:
    """Return what `layer_curvature` is given as an operator.

    Parameters
    ----------
    H : operator, or anything `hessops.aslinearoperator` takes
        Real, with whole vectors on every rank.

    Returns
    -------
    LinearOperator
        Square.

    Raises
    ------
    ValueError
        If it is complex, or its vectors are split over ranks.
    """
    operator = square_operator(H, "layer_curvature")
    if is_complex(operator.xp, operator.dtype):
        raise ValueError(f"{operator} is complex, and a network's layers are real")
    if operator.domain.is_split:
        raise ValueError(
            f"the vectors of {operator} are split over ranks, and layers are looked at on whole ones: "
            "pass the operator that sharded was given"
        )
    return operator


def members_of(H: LinearOperator, blocks: BlockSelection, each: Each) -> dict[str, tuple[str, ...]]:
    """Return the sections of the operator's space in every block.

    Parameters
    ----------
    H : LinearOperator
        On a space with sections.
    blocks, each : as for `layer_curvature`
        What makes a block.

    Returns
    -------
    dict of str to tuple of str
        By block.

    Raises
    ------
    TypeError
        If there are no sections, or no model to select from.
    ValueError
        If blocks overlap, or a selection fits nothing.
    """
    sections = H.domain.sections
    if not sections:
        raise TypeError(f"{H} acts on a space without sections, so that it has no layers")
    if isinstance(H, DataSum):
        return parameter_blocks(H.objective.model, sections, blocks, each)
    if blocks is not None:
        raise TypeError(
            f"blocks={blocks!r} names parameters of a model, and {H} knows none: leave it out to have "
            "one block for every section"
        )
    return {name: (name,) for name in sections}


def size_of(H: LinearOperator, names: tuple[str, ...]) -> int:
    """Return how many entries some sections have.

    Parameters
    ----------
    H : LinearOperator
        On a space with sections.
    names : tuple of str
        Of sections.

    Returns
    -------
    int
        Together.
    """
    return sum(stop - start for start, stop in (H.domain.sections[name] for name in names))
