"""The contestants of the product benchmark: each library behind one small function.

A contestant turns a problem and a block of vectors into a call without arguments that multiplies
the Hessian, or the Gauss-Newton matrix, onto that block. Whatever a library needs only once (the
operator, the block in its own layout, a gradient graph that it keeps) is made beforehand, so that a
call is one product and nothing else.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from problem import Problem, Product, Result
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Contestant", "all_contestants"]

_HESSOPS = ("hessops", "hessops_torch", "pip install 'hessops[torch]'")
_HESSOPS_MODES = "forward-over-reverse", "reverse-over-forward"
_TORCH = ("torch", "torch", "pip install torch")
_PYHESSIAN = ("pyhessian", "pyhessian", "pip install --no-deps pyhessian")
_EIGENTHINGS = (
    "hessian-eigenthings",
    "hessian_eigenthings",
    "pip install --no-deps hessian-eigenthings==1.0.0a5",
)
_CURVLINOPS = (
    "curvlinops-for-pytorch",
    "curvlinops",
    "pip install --no-deps curvlinops-for-pytorch (and its dependencies, see README.md)",
)


@dataclass(frozen=True)
class Contestant:
    """One way to multiply a matrix onto a block.

    Parameters
    ----------
    label : str
        What the table shows.
    library : tuple of str
        Name on the package index, module to import, and how to install it.
    columns : int
        Number k of columns that one call multiplies.
    prepare : callable
        Takes the problem and a block, (n, k), and returns the product.
    matrix : {'Hessian', 'GGN'}
        What is multiplied; contestants with the same must agree.
    """

    label: str
    library: tuple[str, str, str]
    columns: int
    prepare: Callable[[Problem, Tensor], Product]
    matrix: str = "Hessian"

    def product(self, problem: Problem, vectors: Tensor) -> Product:
        """Return the call that multiplies.

        The fused kernels of attention have no second derivative: only hessops steps around them by
        itself, the others get the plain kernel from here.
        """
        if self.library is _HESSOPS:
            return self.prepare(problem, vectors)
        with _plain_attention():
            product = self.prepare(problem, vectors)

        def with_plain_attention() -> Result:
            with _plain_attention():
                return product()

        return with_plain_attention


@contextmanager
def _plain_attention() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def all_contestants(widths: Sequence[int], *, compiled: bool = False) -> list[Contestant]:
    """Return the contestants in the order of the table, hessops first.

    Parameters
    ----------
    widths : sequence of int
        Numbers of columns for the libraries that multiply blocks.
    compiled : bool
        Whether hessops' compiled product takes part, which takes minutes to compile on a CPU.

    Returns
    -------
    list of Contestant
        Those that multiply blocks appear once for each width.
    """
    return [*_hessian_contestants(widths, compiled=compiled), *_ggn_contestants(widths)]


def _hessian_contestants(widths: Sequence[int], *, compiled: bool) -> list[Contestant]:
    modes = [*_HESSOPS_MODES, *(["compiled"] if compiled else [])]
    return [
        *(Contestant("hessops, kept", _HESSOPS, k, _hessops_kept) for k in widths),
        *(Contestant("hessops, rebuilt", _HESSOPS, k, _hessops_rebuilt) for k in widths),
        *(
            Contestant(f"hessops, {mode}", _HESSOPS, k, partial(_hessops, product=mode))
            for mode in modes
            for k in widths
        ),
        Contestant("torch by hand, kept", _TORCH, 1, _torch_by_hand),
        Contestant("PyHessian, kept", _PYHESSIAN, 1, _pyhessian),
        Contestant("hessian-eigenthings", _EIGENTHINGS, 1, _hessian_eigenthings),
        *(Contestant("curvlinops", _CURVLINOPS, k, _curvlinops) for k in widths),
    ]


def _ggn_contestants(widths: Sequence[int]) -> list[Contestant]:
    blocks: list[tuple[str, tuple[str, str, str], Callable[[Problem, Tensor], Product]]] = [
        ("GGN: hessops, kept", _HESSOPS, _hessops_ggn),
        ("GGN: hessops, rebuilt", _HESSOPS, partial(_hessops_ggn, memory_budget=0)),
        ("GGN: hessops, batched", _HESSOPS, partial(_hessops_ggn, product="batched")),
        ("GGN: curvlinops", _CURVLINOPS, partial(_curvlinops, operator="GGNLinearOperator")),
    ]
    rows = [
        Contestant(label, library, k, prepare, "GGN")
        for label, library, prepare in blocks
        for k in widths
    ]
    single = Contestant("GGN: hessian-eigenthings", _EIGENTHINGS, 1, _eigenthings_ggn, "GGN")
    return [*rows[: -len(widths)], single, *rows[-len(widths) :]]


# The libraries are imported by name, inside the functions: each may be missing, and most carry no
# type information.


def _hessops_kept(problem: Problem, vectors: Tensor) -> Product:
    return _hessops(problem, vectors, memory_budget=None)


def _hessops_rebuilt(problem: Problem, vectors: Tensor) -> Product:
    return _hessops(problem, vectors, memory_budget=0)


def _hessops(
    problem: Problem,
    vectors: Tensor,
    *,
    memory_budget: int | None = None,
    product: str = "backward",
) -> Product:
    hessops_torch = importlib.import_module("hessops_torch")
    batches = [(problem.images, problem.labels)]
    operator = hessops_torch.hessian(
        problem.model,
        problem.criterion,
        batches,
        memory_budget=memory_budget,
        product=product,
        precision=_precision(problem),
    )
    own = _own_block(operator, vectors)
    with warnings.catch_warnings():
        # A mode that is not what runs has no figure.
        warnings.simplefilter("error", RuntimeWarning)
        operator.apply(own)
    return lambda: operator.apply(own)


def _hessops_ggn(
    problem: Problem,
    vectors: Tensor,
    *,
    memory_budget: int | None = None,
    product: str | None = None,
) -> Product:
    hessops_torch = importlib.import_module("hessops_torch")
    batches = [(problem.images, problem.labels)]
    operator = hessops_torch.ggn(
        problem.model,
        problem.criterion,
        batches,
        memory_budget=memory_budget,
        product=product,
        precision=_precision(problem),
    )
    own = _own_block(operator, vectors)
    return lambda: operator.apply(own)


def _precision(problem: Problem) -> str | None:
    """Return what hessops has to be asked for to round as the others do."""
    on_gpu = problem.parameters[0].device.type == "cuda"
    return "tf32" if on_gpu and torch.backends.cuda.matmul.allow_tf32 else None


def _own_block(operator: Any, vectors: Tensor) -> Tensor:
    """Return the vectors as hessops lays them out."""
    own: Tensor = operator.domain.zeros(vectors.shape[1])
    return own.copy_(vectors)


def _torch_by_hand(problem: Problem, vectors: Tensor) -> Product:
    """Double backward without a library: the floor for single vectors."""
    parameters = problem.parameters
    gradients = torch.autograd.grad(problem.loss(), parameters, create_graph=True)
    parts = _like_parameters(vectors, parameters)
    return lambda: torch.autograd.grad(gradients, parameters, parts, retain_graph=True)


def _pyhessian(problem: Problem, vectors: Tensor) -> Product:
    """Single-batch mode; the timed function is what its own algorithms call at every step."""
    pyhessian = importlib.import_module("pyhessian")
    with warnings.catch_warnings():
        # It differentiates with `backward(create_graph=True)`, against which torch warns.
        warnings.filterwarnings("ignore", message=r"Using backward\(\) with create_graph=True")
        operator = pyhessian.hessian(
            problem.model,
            problem.criterion,
            data=(problem.images, problem.labels),
            cuda=problem.images.is_cuda,
        )
    parts = _like_parameters(vectors, operator.params)
    return lambda: pyhessian.hessian_vector_product(operator.gradsH, operator.params, parts)


def _hessian_eigenthings(problem: Problem, vectors: Tensor) -> Product:
    hessian_eigenthings = importlib.import_module("hessian_eigenthings")
    loss = hessian_eigenthings.supervised_loss(problem.criterion)
    batches = [(problem.images, problem.labels)]
    operator = hessian_eigenthings.HessianOperator(problem.model, batches, loss)
    vector = vectors[:, 0].contiguous()
    return lambda: operator @ vector


def _eigenthings_ggn(problem: Problem, vectors: Tensor) -> Product:
    hessian_eigenthings = importlib.import_module("hessian_eigenthings")
    loss = hessian_eigenthings.supervised_loss_of_output(problem.criterion)
    batches = [(problem.images, problem.labels)]
    operator = hessian_eigenthings.GGNOperator(
        problem.model, batches, hessian_eigenthings.supervised_forward, loss
    )
    vector = vectors[:, 0].contiguous()
    return lambda: operator @ vector


def _curvlinops(
    problem: Problem, vectors: Tensor, *, operator: str = "HessianLinearOperator"
) -> Product:
    with warnings.catch_warnings():
        # Its dependency linear_operator calls torch.jit.script at import.
        warnings.simplefilter("ignore", DeprecationWarning)
        curvlinops = importlib.import_module("curvlinops")
    batches = [(problem.images, problem.labels)]
    matrix = getattr(curvlinops, operator)(
        problem.model, problem.criterion, problem.parameters, batches
    )
    # One column goes in as a vector, as a user would pass it.
    own = vectors.squeeze(1).contiguous()
    return lambda: matrix @ own


def _like_parameters(vectors: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Cut the only column into tensors of the parameters' shapes."""
    sizes = [parameter.numel() for parameter in parameters]
    pieces = torch.split(vectors[:, 0].contiguous(), sizes)
    return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]
