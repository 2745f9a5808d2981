"""The problems that all contestants of a benchmark share: one batch, one network."""

import copy
import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

__all__ = ["PROBLEMS", "Problem", "Product", "Result", "as_block", "gradient", "resnet20_problem"]

_RESNET = Path(__file__).resolve().parents[2] / "examples" / "resnet_cifar" / "resnet.py"

# A block, a vector, or one tensor for each parameter: every library has its own layout.
Result = Tensor | Sequence[Tensor]
Product = Callable[[], Result]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A loss over one batch of images, or of other inputs.

    Parameters
    ----------
    title : str
        What the table says of it.
    model : torch.nn.Module
        The network, in evaluation mode.
    criterion : torch.nn.Module
        The loss of the network's outputs, averaged over the batch.
    images : torch.Tensor
        Inputs, (batch, ...).
    labels : torch.Tensor
        Classes, (batch, ...).
    """

    title: str
    model: nn.Module
    criterion: nn.Module
    images: Tensor
    labels: Tensor

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters, in the order in which every contestant flattens them."""
        return list(self.model.parameters())

    @property
    def size(self) -> int:
        """The number n of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def loss(self) -> Tensor:
        """Return the mean loss, a scalar."""
        loss: Tensor = self.criterion(self.model(self.images), self.labels)
        return loss

    def with_own_model(self) -> "Problem":
        """Return the same problem on a copy of the model.

        PyHessian leaves gradients with a graph in ``.grad``: no contestant may meet them.
        """
        return replace(self, model=copy.deepcopy(self.model))


def gradient(problem: Problem) -> Product:
    """Return the call that costs one unit: forward and backward on the batch."""
    parameters = problem.parameters
    return lambda: torch.autograd.grad(problem.loss(), parameters)


def as_block(result: Result) -> Tensor:
    """Return a product in any library's layout as a block, (n, k)."""
    if isinstance(result, Tensor):
        return result.detach().reshape(result.shape[0], -1)
    return torch.cat([part.detach().reshape(-1, 1) for part in result])


def resnet20_problem(device: torch.device, batch: int) -> Problem:
    """Return mean cross-entropy of an untrained ResNet20 on random images, in evaluation mode.

    Parameters
    ----------
    device : torch.device
        Where the network and the images live.
    batch : int
        Number of images.

    Returns
    -------
    Problem
        The same for the same state of torch's generator, on any device.
    """
    model: nn.Module = _load(_RESNET).ResNet(20)
    images = torch.randn(batch, 3, 32, 32)
    labels = torch.randint(10, (batch,))
    # Untrained batch norm does nothing in evaluation mode; the activations then grow from block to
    # block until the softmax saturates, and denormal numbers spoil the timings. One pass in
    # training mode sets the statistics.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    return Problem(
        title="ResNet20, 32 x 32 random images, evaluation mode, mean cross-entropy",
        model=model.eval().to(device),
        criterion=nn.CrossEntropyLoss(),
        images=images.to(device),
        labels=labels.to(device),
    )


def mlp_problem(device: torch.device, batch: int) -> Problem:
    """Return mean cross-entropy of a tanh network 784-256-256-256-10 on random inputs."""
    widths = (784, 256, 256, 256)
    layers = [
        part
        for inner, outer in itertools.pairwise(widths)
        for part in (nn.Linear(inner, outer), nn.Tanh())
    ]
    return Problem(
        title="tanh network 784-256-256-256-10, mean cross-entropy",
        model=nn.Sequential(*layers, nn.Linear(256, 10)).to(device),
        criterion=nn.CrossEntropyLoss(),
        images=torch.randn(batch, 784).to(device),
        labels=torch.randint(10, (batch,)).to(device),
    )


def transformer_problem(device: torch.device, batch: int) -> Problem:
    """Return mean cross-entropy of four encoder layers of width 64 on random tokens."""
    tokens, labels = (torch.randint(65, (batch, 32)).to(device) for _ in range(2))
    return Problem(
        title="transformer, 4 layers of width 64, 4 heads, 32 tokens of 65, mean cross-entropy",
        model=_Transformer().eval().to(device),
        criterion=nn.CrossEntropyLoss(),
        images=tokens,
        labels=labels,
    )


class _Transformer(nn.Module):
    """Causal self-attention with the norm first, as in GPT."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(65, 64)
        self.position = nn.Parameter(0.02 * torch.randn(32, 64))
        layer = nn.TransformerEncoderLayer(
            64, 4, 256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(64, 65)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(32))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, (batch, 65, 32)."""
        x = self.embedding(tokens) + self.position
        logits: Tensor = self.head(self.layers(x, mask=self.mask, is_causal=True))
        return logits.transpose(1, 2)


PROBLEMS: dict[str, Callable[[torch.device, int], Problem]] = {
    "resnet20": resnet20_problem,
    "mlp": mlp_problem,
    "transformer": transformer_problem,
}


def _load(path: Path) -> ModuleType:
    """Import a file of the examples, which are scripts and no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python module at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
