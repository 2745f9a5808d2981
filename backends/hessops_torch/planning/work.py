"""How many products a verb takes and how many vectors it holds meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from hessops.algorithms._common import default_block_size, require_count, require_positive
from hessops.algorithms.eigen._basis_limit import basis_limit
from hessops.arrays import numpy_dtype
from hessops.space import Space, require_space
from hessops_torch.layers.arguments import (
    LayerMethod,
    layer_budget,
    require_fitting,
    require_not_negative,
)
from hessops_torch.model.parameter_blocks import BlockSelection, Each
from hessops_torch.planning.asked import LayersAsked, TracesAsked
from hessops_torch.traces.hessian_trace import trace_budget

__all__ = ["Work"]

_ROOM = 16
_DOUBLE = 8


@dataclass(frozen=True, kw_only=True)
class Work:
    """The products of a run, and the vectors that it holds.

    Parameters
    ----------
    num_products : int
        Products in all.
    block_size : int
        Vectors to a product.
    num_vectors : int
        The most vectors that are held during a product, without those that it returns.
    between : int, optional
        The most that are held between products, with these; where not given, there are none.
    widest : int, optional
        Most vectors to a product, if some take more than `block_size`.
    per_term : bool
        Whether every term of a finite sum gets vectors of its own.
    inner_products : bool
        Whether it is inner products that vectors are held for between products.
    verb : str
        What the run is called.
    of_block_size : callable, optional
        From a block size to the same run with that; where given, a plan chooses it.
    of_num_probes : callable, optional
        From a number of probes to a smaller run, where all probes go at once.
    dim : int, optional
        Length of the vectors; where given, a plan is refused for an operator of another dimension.
    asked : TracesAsked, optional
        What a verb is asked for whose products depend on the operator; a plan finds out which.

    Raises
    ------
    ValueError
        If a number is none, or not positive.
    TypeError
        If `space`, of a classmethod that takes one, is none.

    Examples
    --------
    >>> from hessops_torch import Work
    >>> Work.density(num_probes=4, num_steps=10).num_products
    40
    """

    num_products: int
    block_size: int = 1
    num_vectors: int = 1
    between: int | None = None
    widest: int | None = None
    per_term: bool = False
    inner_products: bool = True
    verb: str = "products"
    of_block_size: Callable[[int], Work] | None = field(default=None, repr=False, compare=False)
    of_num_probes: Callable[[int], Work] | None = field(default=None, repr=False, compare=False)
    dim: int | None = None
    asked: TracesAsked | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        require_count(
            num_products=self.num_products,
            block_size=self.block_size,
            num_vectors=self.num_vectors,
        )

    def with_block_size(self, block_size: int) -> Work:
        """Return the same run with another number of vectors to a product.

        Parameters
        ----------
        block_size : int
            At least 1.

        Returns
        -------
        Work
            Whose block size a plan may still choose.

        Raises
        ------
        ValueError
            If the block size of this run is given, or its results depend on it.
        """
        if self.of_block_size is None:
            raise ValueError(
                f"the block size of {self.verb} is not free to be chosen: it is {self.block_size}; "
                "make the Work with another one"
            )
        return replace(self.of_block_size(block_size), of_block_size=self.of_block_size)

    @classmethod
    def eigsh(
        cls,
        space: Space,
        k: int = 6,
        *,
        num_products: int,
        block_size: int = 1,
        max_basis: int | None = None,
    ) -> Work:
        """Return the work of `hessops.eigsh`.

        Parameters
        ----------
        space : Space
            The operator's.
        k : int
            Pairs wanted.
        num_products : int
            As many as convergence takes, which no plan knows, and the `k` that verify.
        block_size : int
            Vectors to multiply at once.
        max_basis : int, optional
            Most basis vectors to keep.

        Returns
        -------
        Work
            Holding the basis, and at the end the eigenvectors and what verifies them.
        """
        require_space(space)
        require_count(num_products=num_products, k=k, block_size=block_size)
        limit = basis_limit([space], "pairs", k, block_size, max_basis)
        size, room = min(num_products, limit), min(_ROOM, limit)
        while room < size:
            room += min(max(_ROOM, room // 8), max(1, limit - room))
        return cls(
            num_products=num_products,
            block_size=block_size,
            num_vectors=room + max(k, 3 * block_size),
            between=room + max(3 * k, 4 * block_size),
            widest=max(k, block_size),
            verb=f"eigsh, k = {k}",
            dim=space.dim,
        )

    @classmethod
    def trace(cls, space: Space, num_probes: int = 32, *, block_size: int | None = None) -> Work:
        """Return the work of `hessops.trace` by Hutchinson's estimator.

        Parameters
        ----------
        space : Space
            The operator's.
        num_probes : int
            Probes.
        block_size : int, optional
            Probes to a product; as the verb chooses where not given, and a plan with a memory limit.

        Returns
        -------
        Work
            Holding a block of probes.
        """
        require_space(space)
        require_count(num_probes=num_probes)
        size = min(block_size or default_block_size(space, num_probes), num_probes)
        return cls(
            num_products=num_probes,
            block_size=size,
            num_vectors=size,
            between=2 * size,
            per_term=True,
            verb="trace",
            dim=space.dim,
            of_block_size=None if block_size else partial(_trace, space, num_probes),
        )

    @classmethod
    def diagonal(cls, space: Space, num_probes: int = 32, *, block_size: int | None = None) -> Work:
        """Return the work of `hessops.diagonal` by Hutchinson's estimator.

        Parameters
        ----------
        space : Space
            The operator's.
        num_probes : int
            Probes.
        block_size : int, optional
            Probes to a product; as the verb chooses where not given, and a plan with a memory limit.

        Returns
        -------
        Work
            Holding a block of probes, and the moments of every entry in double precision.
        """
        require_space(space)
        require_count(num_probes=num_probes)
        size = min(block_size or default_block_size(space, num_probes), num_probes)
        doubles = _DOUBLE / numpy_dtype(space.dtype).itemsize
        return cls(
            num_products=num_probes,
            block_size=size,
            num_vectors=size + math.ceil(_MOMENTS * doubles),
            between=2 * size + math.ceil((_SAMPLES * size + _MERGING) * doubles),
            per_term=True,
            inner_products=False,
            verb="diagonal",
            dim=space.dim,
            of_block_size=None if block_size else partial(_diagonal, space, num_probes),
        )

    @classmethod
    def density(cls, *, num_probes: int = 8, num_steps: int = 64) -> Work:
        """Return the work of `hessops.spectral_density`.

        Parameters
        ----------
        num_probes, num_steps : int
            Of the density.

        Returns
        -------
        Work
            Holding some blocks of `num_probes` vectors.
        """
        require_count(num_probes=num_probes, num_steps=num_steps)
        return cls(
            num_products=num_probes * num_steps,
            block_size=num_probes,
            num_vectors=2 * num_probes,
            between=5 * num_probes,
            verb="spectral_density",
            of_num_probes=partial(_density, num_steps),
        )

    @classmethod
    def hessian_trace(
        cls,
        space: Space,
        max_products: int | None = None,
        *,
        tolerance: bool = False,
        sections: bool = False,
    ) -> Work:
        """Return the work of `hessops_torch.hessian_trace`.

        Parameters
        ----------
        space : Space
            The operator's.
        max_products : int, optional
            What it may spend; as the verb has it where not given.
        tolerance : bool
            Whether `rtol` or `atol` is given. What that takes depends on variances that no plan knows:
            it then says what the run costs at the least, up to the end of its pilot, and at most.
        sections : bool
            Whether the trace of every parameter tensor is wanted.

        Returns
        -------
        Work
            Whose products a plan splits into graphs, probes and gradients of samples.
        """
        require_space(space)
        require_positive(max_products=max_products)
        budget = trace_budget(max_products, adaptive=tolerance)
        return cls(
            num_products=budget,
            block_size=default_block_size(space, budget),
            verb=f"hessian_trace, {_of_budget(budget, tolerance)}",
            dim=space.dim,
            asked=TracesAsked(budget=budget, adaptive=tolerance, sections=sections),
        )

    @classmethod
    def layer_curvature(
        cls,
        space: Space,
        blocks: BlockSelection = None,
        *,
        each: Each = "module",
        method: LayerMethod = "auto",
        tolerance: bool = False,
        num_probes: int | None = None,
        max_products: int | None = None,
        block_size: int | None = None,
        num_eigenvalues: int = 0,
        num_block_products: int | None = None,
        num_density_steps: int = 0,
        num_density_probes: int = 4,
    ) -> Work:
        """Return the work of `hessops_torch.layer_curvature`.

        Parameters
        ----------
        space : Space
            The operator's.
        blocks, each, method : as for `layer_curvature`
            What makes a block, and how traces are estimated.
        tolerance : bool
            Whether `rtol` is given, as for `Work.hessian_trace`.
        num_probes, max_products, block_size : int, optional
            What it may spend, as the verb has it where not given.
        num_eigenvalues : int
            Eigenpairs of every block.
        num_block_products : int, optional
            Products that those of one block take, which no plan knows; with `num_eigenvalues`.
        num_density_steps, num_density_probes : int
            Of the density of every block.

        Returns
        -------
        Work
            Of the sweep, and of each block by itself.

        Raises
        ------
        ValueError
            If options do not go with each other, or `num_block_products` is missing.
        """
        require_space(space)
        require_positive(
            num_probes=num_probes,
            max_products=max_products,
            block_size=block_size,
            num_block_products=num_block_products,
        )
        require_fitting(method, None, num_probes, max_products)
        require_not_negative(num_eigenvalues=num_eigenvalues, num_density_steps=num_density_steps)
        if num_eigenvalues and num_block_products is None:
            raise ValueError(
                f"how many products num_eigenvalues={num_eigenvalues} takes for each block, no plan "
                "knows: give num_block_products, 20 say"
            )
        budget = layer_budget(num_probes, max_products, adaptive=tolerance)
        return cls(
            num_products=budget,
            block_size=min(block_size or default_block_size(space, budget), budget),
            verb=f"layer_curvature, {_of_budget(budget, tolerance)}",
            dim=space.dim,
            asked=TracesAsked(
                budget=budget,
                adaptive=tolerance,
                sections=True,
                layers=LayersAsked(
                    blocks=blocks,
                    each=each,
                    method=method,
                    plain=(num_probes, block_size) != (None, None),
                    block_size=block_size,
                    num_eigenvalues=num_eigenvalues,
                    num_block_products=num_block_products or 0,
                    num_density_steps=num_density_steps,
                    num_density_probes=num_density_probes,
                ),
            ),
        )


# Of a diagonal, in double precision: what is kept of every entry (of the terms before, and of the
# blocks of probes before), what merging it takes, and what is made of each probe.
_MOMENTS, _MERGING, _SAMPLES = 6, 12, 4


def _trace(space: Space, num_probes: int, block_size: int) -> Work:
    return Work.trace(space, num_probes, block_size=block_size)


def _diagonal(space: Space, num_probes: int, block_size: int) -> Work:
    return Work.diagonal(space, num_probes, block_size=block_size)


def _density(num_steps: int, num_probes: int) -> Work:
    return Work.density(num_probes=num_probes, num_steps=num_steps)


def _of_budget(budget: int, tolerance: bool) -> str:
    return f"{'at most ' if tolerance else ''}max_products={budget}"
