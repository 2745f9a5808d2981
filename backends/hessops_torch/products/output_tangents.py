"""Products of a model's Jacobian with vectors by forward mode, some vectors at a time.

`OutputGraph` has J v of two backward passes, which everything that can be differentiated twice has.
Convolutions do, but the second of these takes much longer than the floating point work in it. Forward
mode takes one forward pass and, for each vector, two more. It keeps nothing between products.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from hessops.algorithms._common import level_outside
from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.losses.contract import EvaluationError, require_outputs
from hessops_torch.losses.failures import differentiating, name_of
from hessops_torch.model.functional import called_with
from hessops_torch.objective.loss_module import OutputsModule
from hessops_torch.objective.objective import Objective
from hessops_torch.products.difference import difference_of
from hessops_torch.products.functional_product import Named, attributes_kept, named_views

__all__ = [
    "JacobianMode",
    "OutputTangents",
    "check_jacobian_mode",
    "find_tangents",
    "takes_tangents",
]

JacobianMode = Literal["backward", "forward"]
"""Ways to multiply by a Jacobian."""

_SEED = 0xFA57
_MOST_COLUMNS = 8


class OutputTangents:
    """Products of the Jacobian of a micro-batch's outputs by `torch.func`.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    chunk_size : int
        Most vectors at a time.
    """

    def __init__(self, objective: Objective, chunk_size: int = _MOST_COLUMNS) -> None:
        self.objective = objective
        self.chunk_size = chunk_size

    def forward(self, index: int, batch: Any, rows: Tensor) -> Tensor:
        """Return J v for each row v, while the model is ready.

        Parameters
        ----------
        index : int
            Of the micro-batch.
        batch : object
            The micro-batch.
        rows : torch.Tensor, shape (k, n)
            Flat parameter vectors.

        Returns
        -------
        torch.Tensor, shape (k, *outputs.shape)
            The products.
        """
        model = self.objective.model
        with (
            differentiating(name_of(index)),
            attributes_kept(model),
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            # PyTorch compiles its own forward-mode formulas with what it has deprecated.
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
            chunks = torch.split(rows, self.chunk_size)
            return torch.cat([self._chunk(batch, chunk) for chunk in chunks])

    def _chunk(self, batch: Any, rows: Tensor) -> Tensor:
        parameters = {name: p.detach() for name, p in self.objective.parameters.items()}
        vectors = named_views(rows, parameters)
        outputs = _OutputsOfParameters(self.objective, batch)

        def along(vector: Named) -> Tensor:
            pair: Any = jvp(outputs, (parameters,), (vector,))
            product: Tensor = pair[1]
            return product

        if len(rows) == 1:
            return along({name: stack[0] for name, stack in vectors.items()})[None]
        products: Tensor = vmap(along)(vectors)
        return products


def check_jacobian_mode(product: Any) -> None:
    """Raise if a way to multiply by a Jacobian is unknown.

    Parameters
    ----------
    product : str or None
        One of `JacobianMode`, or None.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if product is not None and product not in get_args(JacobianMode):
        raise ValueError(
            f"product={product!r} is unknown; choose one of {', '.join(get_args(JacobianMode))}, or "
            "leave it out"
        )


def find_tangents(
    product: JacobianMode | None, objective: Objective, graph: OutputGraph, index: int, batch: Any
) -> OutputTangents | None:
    """Return what multiplies by forward mode, after one look at whether it is right.

    Parameters
    ----------
    product : {'backward', 'forward'} or None
        What was asked for; None takes forward mode for parameters of convolutions.
    objective : Objective
        Model, loss and data, ready.
    graph : OutputGraph
        Of a micro-batch, for the product to compare with.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.

    Returns
    -------
    OutputTangents or None
        None for two backward passes.

    Warns
    -----
    RuntimeWarning
        If forward mode was asked for and fails, or gives another product.
    """
    if not takes_tangents(product, objective):
        return None
    tangents = OutputTangents(objective)
    reason = _objection(tangents, graph, index, batch)
    if reason is not None and product == "forward":
        warnings.warn(
            f"product='forward' {reason}: two backward passes take its place",
            RuntimeWarning,
            stacklevel=level_outside(),
        )
    return tangents if reason is None else None


def takes_tangents(product: JacobianMode | None, objective: Objective) -> bool:
    """Tell whether forward mode is to be taken, if it is right.

    Parameters
    ----------
    product : {'backward', 'forward'} or None
        What was asked for; None takes forward mode for parameters of convolutions.
    objective : Objective
        Model and parameters.

    Returns
    -------
    bool
        Where no convolution has one of the parameters, backward passes need not go as far down.
    """
    if product is not None:
        return product == "forward"
    chosen = {id(parameter) for parameter in objective.parameters.values()}
    return any(
        id(parameter) in chosen
        for module in objective.model.modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        for parameter in module.parameters()
    )


def _objection(tangents: OutputTangents, graph: OutputGraph, index: int, batch: Any) -> str | None:
    """Return why forward mode cannot be taken, None if it can."""
    domain = tangents.objective.domain
    generator = torch.Generator(device=domain.device).manual_seed(_SEED)
    rows = torch.randn(
        (2, domain.dim), generator=generator, device=domain.device, dtype=domain.dtype
    )
    expected = graph.forward(rows[1:])
    try:
        # Two at a time, as the transform for several is another.
        found = tangents.forward(index, batch, rows)[1:]
    except Exception as error:
        if tangents.chunk_size == 1:
            # An error of the model's own comes without a text, around what was raised.
            cause = (isinstance(error, EvaluationError) and error.__cause__) or error
            lines = str(cause).strip().splitlines() or ["it says no more"]
            return f"fails ({type(cause).__name__}: {lines[0][:200]})"
        tangents.chunk_size = 1
        return _objection(tangents, graph, index, batch)
    difference = difference_of(found, expected, tangents.objective.epsilon)
    return (
        None if difference is None else f"gives a product that differs from theirs by {difference}"
    )


class _OutputsOfParameters:
    """The outputs for a micro-batch as a function of the parameters."""

    def __init__(self, objective: Objective, batch: Any) -> None:
        self.module = OutputsModule(objective.model, require_outputs(objective.loss, "a Jacobian"))
        self.batch = batch
        self.buffers = dict(objective.model.named_buffers())

    def __call__(self, parameters: Named) -> Tensor:
        # Cloned under the transform, which lets what it has seen come into being be written to.
        buffers = {name: b.clone() for name, b in self.buffers.items()}
        tensors = {f"model.{name}": t for name, t in (parameters | buffers).items()}
        outputs: Tensor = called_with(self.module, tensors, self.batch)
        return outputs
