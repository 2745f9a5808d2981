"""An operator over a network's data without what couples its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hessops_torch.model.parameter_blocks import BlockSelection, Each, parameter_blocks
from hessops_torch.model.selection import ParameterSelection
from hessops_torch.operators.data_sum import DataSum

__all__ = ["DiagonalBlocks", "block_diagonal", "whole_of"]


def block_diagonal(
    H: DataSum, blocks: BlockSelection = None, *, each: Each = "module"
) -> DiagonalBlocks:
    """Return an operator without what couples its blocks: diag(H_11, ..., H_mm).

    Its trace, and its diagonal, are those of `H` in the same parameters. Probes see less noise in them,
    as nothing of the other blocks enters, but a product costs more.

    Parameters
    ----------
    H : Hessian or any other sum over data
        Such as `hessian` makes.
    blocks : mapping of str to selection, or iterable of selections, optional
        As `layer_curvature` takes them. They may not overlap. Where they do not cover all parameters,
        the operator acts on vectors of those that they cover.
    each : {'module', 'tensor'}
        Where no blocks are given: one for every module that holds parameters itself, or one for
        every parameter tensor.

    Returns
    -------
    DiagonalBlocks
        Its `terms()` are the micro-batches, as those of `H`, with which it shares graphs.

    Raises
    ------
    ValueError
        If two blocks overlap, or a selection fits no parameter of the operator.
    TypeError
        If `H` is no sum over data.

    Notes
    -----
    A product of a Hessian builds the gradient's graph once for all blocks, or takes the one that was
    kept, and goes through it once for every block, down to the block and no further, without the
    gradients of other weights. That costs at most half a product with the whole for each block, and in
    a chain of m equal linear layers (m + 1) / 6 products in all. Counted by floating point operations:
    2.0 products for ten such layers, 2.4 for the six stages of a ResNet20, and 10 for its 39 modules.
    Other operators take a product with the whole for every block.

    Examples
    --------
    >>> import torch, hessops_torch
    >>> model = torch.nn.Linear(2, 1)
    >>> H = hessops_torch.hessian(model, torch.nn.MSELoss(), [(torch.eye(2), torch.zeros(2, 1))])
    >>> H.to_dense(), hessops_torch.block_diagonal(H, each="tensor").to_dense()
    (tensor([[1., 0., 1.],
            [0., 1., 1.],
            [1., 1., 2.]]), tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 2.]]))
    """
    if not isinstance(H, DataSum):
        raise TypeError(
            f"block_diagonal needs an operator over a network's data, got {type(H).__name__}: make "
            "one, such as hessops_torch.hessian(model, loss, data), or put operators side by side by "
            "hessops.BlockDiagonal"
        )
    members = parameter_blocks(H.objective.model, H.domain.sections, blocks, each)
    covered = [name for names in members.values() for name in names]
    whole = H if len(covered) == len(H.domain.sections) else H.restricted(covered)
    return DiagonalBlocks(whole, members)


class DiagonalBlocks(DataSum):
    """The diagonal blocks of a sum over data; `block_diagonal` makes one.

    Parameters
    ----------
    whole : DataSum
        The operator.
    blocks : mapping of str to sequence of str
        The parameters in every block; each parameter is in one.
    """

    def __init__(self, whole: DataSum, blocks: Mapping[str, Sequence[str]]) -> None:
        # What it finds out may be that another precision is taken.
        whole._look_at_precision()
        super().__init__(
            whole.objective, weight_decay=whole.weight_decay, structure=whole.structure
        )
        self.whole = whole
        self.blocks = {block: tuple(names) for block, names in blocks.items()}
        self.graphs = whole.graphs
        self.caches = whole.caches
        places = {name: place for place, name in enumerate(whole.domain.sections)}
        self._product_error, self._precision_seen = whole.product_error, True
        self._places = [[places[name] for name in names] for names in self.blocks.values()]

    def restricted(self, params: ParameterSelection) -> DiagonalBlocks:
        """Return what belongs to some parameters: of each block the part that does.

        Parameters
        ----------
        params : str, re.Pattern, torch.nn.Module, torch.nn.Parameter, iterable of these, or None
            Parameters to differentiate by, as `hessian` takes them.

        Returns
        -------
        DiagonalBlocks
            On flat vectors of these parameters.
        """
        whole = self.whole.restricted(params)
        parts = {
            block: [name for name in names if name in whole.domain.sections]
            for block, names in self.blocks.items()
        }
        return DiagonalBlocks(whole, {block: names for block, names in parts.items() if names})

    def in_full_precision(self) -> DiagonalBlocks:
        """Return the blocks of the same operator, computed in the precision of the model."""
        return DiagonalBlocks(self.whole.in_full_precision(), self.blocks)

    def _add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        return self.whole._add_block_products(index, batch, columns, out, self._places)

    def _meet(self) -> None:
        self.whole._meet()

    def _divisor(self, found: Sequence[Tensor | float] | None = None) -> float:
        return self.whole._divisor(found)

    def _describe(self) -> str:
        return f"{len(self.blocks)} blocks, {super()._describe()}"


def whole_of(operator: DataSum) -> DataSum:
    """Return the operator that diagonal blocks are those of, or the operator itself.

    Parameters
    ----------
    operator : DataSum
        Diagonal blocks, or any other.

    Returns
    -------
    DataSum
        Whose products are computed.
    """
    return operator.whole if isinstance(operator, DiagonalBlocks) else operator
