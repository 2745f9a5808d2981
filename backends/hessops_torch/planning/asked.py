"""What `hessian_trace` and `layer_curvature` are asked for, which says what they do for an operator."""

from __future__ import annotations

from dataclasses import dataclass

from hessops_torch.layers.arguments import LayerMethod
from hessops_torch.model.parameter_blocks import BlockSelection, Each

__all__ = ["LayersAsked", "TracesAsked"]


@dataclass(frozen=True, kw_only=True)
class LayersAsked:
    """What is asked for of blocks.

    Parameters
    ----------
    blocks, each, method : as for `layer_curvature`
        What makes a block, and how traces are estimated.
    plain : bool
        Whether an option is given that is one of plain probes.
    block_size : int or None
        Vectors to a product, of plain probes.
    num_eigenvalues, num_block_products : int
        Eigenpairs of every block, and the products with it that they take.
    num_density_steps, num_density_probes : int
        Of the density of every block.
    """

    blocks: BlockSelection
    each: Each
    method: LayerMethod
    plain: bool
    block_size: int | None
    num_eigenvalues: int
    num_block_products: int
    num_density_steps: int
    num_density_probes: int


@dataclass(frozen=True, kw_only=True)
class TracesAsked:
    """What is asked for of traces.

    Parameters
    ----------
    budget : int
        Products to spend, at most if there is a tolerance.
    adaptive : bool
        Whether there is a tolerance.
    sections : bool
        Whether the trace of every parameter tensor is wanted.
    layers : LayersAsked or None
        What is wanted of blocks, by `layer_curvature`.
    """

    budget: int
    adaptive: bool
    sections: bool = False
    layers: LayersAsked | None = None
