"""The Hessian of a loss by what passes through a model: activations, or inputs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from hessops.operator import LinearOperator
from hessops.structure import SELF_ADJOINT
from hessops_torch.graphs.cache import GraphCache
from hessops_torch.graphs.gradient_graph import GradientGraph
from hessops_torch.losses.failures import name_of
from hessops_torch.model.parameters import ParameterSpace
from hessops_torch.objective.finite_losses import require_finite_losses
from hessops_torch.objective.objective import Objective
from hessops_torch.operators.shift_points import InputTensor, ModuleOutputs

__all__ = ["ShiftHessian"]


class ShiftHessian(LinearOperator):
    """The Hessian by what is added to tensors in a forward pass, at zero.

    `activation_hessian` and `input_hessian` make one. Vectors hold, for every such tensor, the entries
    of all samples of all micro-batches: `space.unflatten` gives them back by name, in the tensor's own
    shape. As no micro-batch knows of another, one probe for the whole is a fresh one for each.

    Parameters
    ----------
    objective : Objective
        Model, loss and data.
    points : ModuleOutputs or InputTensor
        Where something is added.
    """

    domain: ParameterSpace

    def __init__(self, objective: Objective, points: ModuleOutputs | InputTensor) -> None:
        if objective.ranks.comm.size > 1:
            raise ValueError(
                "vectors of a Hessian by activations or inputs have entries for every sample, which "
                "several ranks have: make it without comm, of this rank's data and with "
                "reduction='sum'; as no sample knows of another, that is its block of the whole"
            )
        # Nothing is differentiated by parameters, and a graph for the smallest is a small one.
        smallest = min(objective.parameters, key=lambda name: objective.parameters[name].numel())
        self.objective = objective.restricted([objective.parameters[smallest]])
        self.points = points
        self.shapes = self._shapes()
        super().__init__(self._space(), structure=SELF_ADJOINT)
        self.graphs: GraphCache[GradientGraph] = self.objective.new_cache()
        self._seems_symmetric = False

    @property
    def space(self) -> ParameterSpace:
        """Return the space of flat vectors, which flattens and unflattens."""
        return self.domain

    def restricted(self, names: Sequence[str]) -> ShiftHessian:
        """Return the diagonal block of some of the tensors.

        Parameters
        ----------
        names : sequence of str
            Names of sections of the space.

        Returns
        -------
        ShiftHessian
            On vectors with these sections.

        Raises
        ------
        KeyError
            If the space has no such section.
        """
        for name in names:
            self.domain.section(name)
        block = copy(self)
        block.points = self.points.only(names)
        block.shapes = [{name: shapes[name] for name in names} for shapes in self.shapes]
        block.domain = block.codomain = block._space()
        block.graphs = self.objective.new_cache()
        return block

    def _shapes(self) -> list[dict[str, torch.Size]]:
        """Return the shapes of the tensors for every micro-batch, by a forward pass over all data."""
        objective, found = self.objective, []
        dtype = objective.domain.dtype
        with objective.ready(), torch.no_grad():
            for index, batch in enumerate(objective.batches):
                seen: dict[str, Tensor] = {}
                with self.points.values(batch, seen) as given:
                    objective.evaluate(index, given)
                for name, tensor in seen.items():
                    if tensor.dtype != dtype:
                        raise ValueError(
                            f"{name!r} is {tensor.dtype} in {name_of(index)} and the parameters are "
                            f"{dtype}: convert model and data to one"
                        )
                found.append({name: seen[name].shape for name in self.points.names})
        return found

    def _space(self) -> ParameterSpace:
        one = torch.empty(1, dtype=self.objective.domain.dtype, device=self.objective.domain.device)
        # Views of one number: only their shapes are looked at.
        return ParameterSpace(
            {name: one.expand(self._shape_of_all(name)) for name in self.points.names}
        )

    def _shape_of_all(self, name: str) -> torch.Size:
        shapes = [of_batch[name] for of_batch in self.shapes]
        if all(shape and shape[1:] == shapes[0][1:] for shape in shapes):
            return torch.Size((sum(shape[0] for shape in shapes), *shapes[0][1:]))
        # Batches of different lengths, say, in one row.
        return torch.Size((sum(shape.numel() for shape in shapes),))

    def _apply(self, X: Any) -> Any:
        objective = self.objective
        starts = {name: start for name, (start, _) in self.domain.sections.items()}
        with objective.ready(self.graphs):
            columns = X.detach().T.contiguous()
            out = torch.zeros_like(columns)
            found: list[tuple[Tensor | float, Tensor | None]] = []
            for index, batch in enumerate(objective.batches):
                rows = []
                for name, shape in self.shapes[index].items():
                    rows.append(slice(starts[name], starts[name] + shape.numel()))
                    starts[name] += shape.numel()
                part = torch.cat([columns[:, one] for one in rows], dim=1)
                product = torch.zeros_like(part)
                found.append(self._add_products(index, batch, part, product))
                sizes = [shape.numel() for shape in self.shapes[index].values()]
                for one, piece in zip(rows, torch.split(product, sizes, dim=1), strict=True):
                    out[:, one] = piece
            out /= objective.divisor([count for count, _ in found])
            require_finite_losses([total for _, total in found], self.graphs)
        return out.T

    def _add_products(
        self, index: int, batch: Any, columns: Tensor, out: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        graph = self.graphs.get(index)
        if graph is not None:
            graph.add_products(columns, out, keep=True)
            return graph.count, None
        objective, space = self.objective, self.domain
        shifts = {
            name: torch.zeros(shape, dtype=space.dtype, device=space.device, requires_grad=True)
            for name, shape in self.shapes[index].items()
        }
        with self.points.shifted(batch, shifts) as given:
            graph = GradientGraph(
                objective.model, objective.loss, given, list(shifts.values()), name_of(index)
            )
        if not self._seems_symmetric:
            self._seems_symmetric = graph.shows_symmetry()
        graph.add_products(columns, out, keep=self.graphs.offer(index, graph))
        return graph.count, graph.total

    def _describe(self) -> str:
        return f"by {', '.join(map(repr, self.points.names))}, {self.objective.describe()}"
