"""Small networks with data, and their dense Hessians by torch.autograd.functional alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch.nn.attention import SDPBackend, sdpa_kernel

from hessops import LinearOperator

every_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)

# A dense Hessian costs a backward pass per parameter.
few_examples = settings(max_examples=max(settings.default.max_examples // 2, 1))

ACTIVATIONS = (nn.Tanh, nn.GELU, nn.Softplus, nn.SiLU, nn.ReLU)

Batch = Any
TotalLoss = Callable[[Callable[..., Any]], Tensor]
"""From a stand-in for the model to the loss over all the data."""


batch_sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
seeds = st.integers(0, 2**32 - 10)


@st.composite
def ways_to_compute(draw: st.DrawFn) -> dict[str, int | None]:
    """Options that change how products are computed, and not what they are."""
    return {
        "micro_batch_size": draw(st.none() | st.integers(1, 5)),
        "memory_budget": draw(st.sampled_from([None, 0, 2000])),
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build(
    factory: Callable[[], nn.Module], seed: int, device: str, dtype: torch.dtype = torch.float64
) -> nn.Module:
    """Return a model whose parameters and running statistics are all away from 0 and 1."""
    with seeded(seed):
        model = factory()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            for module in model.modules():
                if getattr(module, "running_mean", None) is not None:
                    module.running_mean.normal_(std=0.5)
                    module.running_var.uniform_(0.5, 2.0)
    return model.to(device, dtype)


def normal(seed: int, *shape: int, device: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal numbers that are the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).to(device)


def integers(seed: int, high: int, *shape: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, shape, generator=generator).to(device)


def cut(sizes: Sequence[int], *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors along their first axis into ragged batches."""
    assert all(len(tensor) == sum(sizes) for tensor in tensors)
    return list(zip(*(tensor.split(list(sizes)) for tensor in tensors), strict=True))


def dense_hessian(
    model: nn.Module,
    total_loss: TotalLoss,
    method: Callable[..., Any] = torch.autograd.functional.hessian,
) -> Tensor:
    """Return the Hessian by all parameters, in the order of ``model.named_parameters()``."""
    model = copy.deepcopy(model)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    def of_flat(flat: Tensor) -> Tensor:
        pieces = {
            name: piece.view_as(p)
            for (name, p), piece in zip(parameters.items(), flat.split(sizes), strict=True)
        }
        return total_loss(lambda *inputs: functional_call(model, pieces, inputs))

    flat = torch.cat([p.reshape(-1) for p in parameters.values()])
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if flat.device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        dense: Tensor = method(of_flat, flat)
        return dense


def forward_over_reverse(of_flat: Callable[[Tensor], Tensor], flat: Tensor) -> Tensor:
    """Return a Hessian by a way to differentiate that the backend does not take."""
    with warnings.catch_warnings():
        # PyTorch compiles its own forward-mode formulas with what it has deprecated.
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
        dense: Tensor = hessian(of_flat)(flat)
    return dense


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def rows_of(model: nn.Module, names: Sequence[str]) -> Tensor:
    """Return the indices of some parameters' entries in the flat vector of all."""
    found, start = [], 0
    for name, parameter in model.named_parameters():
        if name in names:
            found.append(torch.arange(start, start + parameter.numel()))
        start += parameter.numel()
    return torch.cat(found)


def assert_same(found: Any, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Assert that two matrices agree to `tolerance` in the Frobenius norm, relative to `expected`.

    Zero has to be met exactly.
    """
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    deviation = float(torch.linalg.norm(found - expected))
    size = float(torch.linalg.norm(expected))
    assert deviation <= tolerance * size, f"off by {deviation:.3g} of {size:.3g}"


def assert_is_hessian(operator: LinearOperator, expected: Tensor, block_size: int = 256) -> None:
    assert operator.dtype == expected.dtype
    assert_same(operator.to_dense(block_size=block_size), expected)


class Attention(nn.Module):
    """Tokens through an embedding, causal attention by the functional form, and a tied read-out."""

    def __init__(self, vocabulary: int = 4, width: int = 4, *, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.mixing = nn.Linear(width, 3 * width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        heads = self.mixing(x).unflatten(-1, (3, 2, -1)).transpose(1, 3)
        q, k, v = heads.unbind(2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(self.norm(x + mixed.transpose(1, 2).flatten(-2)))


class Encoder(nn.Module):
    """Tokens through an embedding, one of PyTorch's encoder layers, and a read-out."""

    def __init__(self, vocabulary: int = 4, width: int = 4, *, norm_first: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = nn.TransformerEncoderLayer(
            width, 2, 3, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
        )
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens)))


class Recurrent(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 2) -> None:
        super().__init__()
        self.recurrent = kind(3, width, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Residual(nn.Module):
    """A module with its input added to its output, or not."""

    def __init__(self, inner: nn.Module, *, shortcut: bool = True) -> None:
        super().__init__()
        self.inner = inner
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x if self.shortcut else self.inner(x)


class OnlyOnce(torch.autograd.Function):
    """A function whose derivative has none."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


class FailsTransformed(nn.Module):
    """A model that raises something under function transforms, for batches of some size if given."""

    def __init__(self, error, size=None):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.error = error
        self.size = size

    def forward(self, x):
        outputs = self.layer(x)
        concerned = self.size in {None, len(x)}
        if concerned and torch._C._functorch.is_functorch_wrapped_tensor(outputs):
            raise self.error
        return outputs


class OnceDifferentiable(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return OnlyOnce.apply(self.linear(x))


def mlp(
    width: int = 3, activation: type[nn.Module] = nn.Tanh, *, bias: bool = True, outputs: int = 2
) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, width, bias=bias), activation(), nn.Linear(width, outputs, bias=bias)
    )


def convolutional(
    channels: int = 2,
    activation: type[nn.Module] = nn.Tanh,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    *,
    shortcut: bool = True,
    outputs: int = 3,
) -> nn.Module:
    block = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels), activation()
    )
    return nn.Sequential(
        nn.Conv2d(1, channels, 2), norm(channels), activation(),
        Residual(block, shortcut=shortcut), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(channels, outputs),
    )  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A model, its loss and data, and the same loss over all data as one formula."""

    model: nn.Module
    loss: Any
    batches: list[Batch]
    total_loss: TotalLoss

    @property
    def arguments(self) -> tuple[nn.Module, Any, list[Batch]]:
        return self.model, self.loss, self.batches

    def dense(self) -> Tensor:
        return dense_hessian(self.model, self.total_loss)


def regression(device: str, sizes: Sequence[int] = (3, 4, 1), seed: int = 0) -> Problem:
    model = build(mlp, seed, device).eval()
    x, y = (normal(seed + i, sum(sizes), width, device=device) for i, width in ((1, 3), (2, 2)))
    return Problem(model, nn.MSELoss(), cut(sizes, x, y), lambda f: F.mse_loss(f(x), y))


def images(
    device: str,
    sizes: Sequence[int] = (4, 3),
    seed: int = 0,
    *,
    train: bool = False,
    **options: Any,
) -> Problem:
    """Images for a network with batch norm, whose loss in train mode depends on the batches."""
    model = build(lambda: convolutional(**options), seed, device).train(train)
    count = sum(sizes)
    x = normal(seed + 1, count, 1, 4, 4, device=device)
    y = integers(seed + 2, 3, count, device=device)
    batches = cut(sizes, x, y)

    def total_loss(f: Callable[..., Any]) -> Tensor:
        if not train:
            return F.cross_entropy(f(x), y)
        sums = [F.cross_entropy(f(a), b, reduction="sum") for a, b in batches]
        return torch.stack(sums).sum() / count

    return Problem(model, nn.CrossEntropyLoss(), batches, total_loss)


def token_loss(model: Callable[..., Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sum the losses of the tokens that count, and count them."""
    losses = F.cross_entropy(
        model(batch["tokens"]).flatten(0, 1), batch["labels"].flatten(), reduction="none"
    )
    mask = batch["mask"].flatten()
    return (losses * mask).sum(), mask.sum()


def language(
    device: str,
    sizes: Sequence[int] = (2, 3),
    seed: int = 0,
    factory: Callable[[], nn.Module] = Attention,
    length: int = 3,
) -> Problem:
    """Masked tokens in dict batches, for a network with attention."""
    model = build(factory, seed, device).eval()
    shape = (sum(sizes), length)
    tokens, labels = (integers(seed + i, 4, *shape, device=device) for i in (1, 2))
    mask = integers(seed + 3, 2, *shape, device=device).to(torch.float64)
    mask[0, 0] = 1.0
    batches = [
        {"tokens": a, "labels": b, "mask": c} for a, b, c in cut(sizes, tokens, labels, mask)
    ]

    def total_loss(f: Callable[..., Any]) -> Tensor:
        chosen = mask.bool()
        return F.cross_entropy(f(tokens)[chosen], labels[chosen])

    return Problem(model, token_loss, batches, total_loss)


PROBLEMS: dict[str, Callable[[str], Problem]] = {
    "regression": regression,
    "images": images,
    "images in train mode": lambda device: images(device, train=True),
    "language": language,
    "encoder layer": lambda device: language(device, factory=Encoder),
}
every_problem = pytest.mark.parametrize("make_problem", PROBLEMS.values(), ids=PROBLEMS.keys())
some_problems = pytest.mark.parametrize(
    "make_problem", [regression, images, language], ids=lambda make_problem: make_problem.__name__
)
