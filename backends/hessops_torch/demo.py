"""The problem of ``hessops demo``: a small network with batch norm, trained on handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Trained", "digits", "train_on_digits"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network, what it was trained on, and how well it does.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode.
    loss : torch.nn.CrossEntropyLoss
        The mean over a batch.
    data : list of (Tensor, Tensor)
        The images trained on, in batches.
    train_accuracy : float
        Share of the training images whose digit the network names.
    test_accuracy : float
        The same for the images it has not seen.
    num_test : int
        How many those are.
    """

    model: nn.Module
    loss: nn.CrossEntropyLoss
    data: list[tuple[Tensor, Tensor]]
    train_accuracy: float
    test_accuracy: float
    num_test: int

    @property
    def story(self) -> str:
        """Return what was trained and what is asked of it, for someone who has not seen it before."""
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        images = sum(len(labels) for _, labels in self.data)
        return (
            f"Trained: a network of two convolutions and a linear layer, {weights:,} parameters, to "
            f"read the digit\nin images of 8 x 8 pixels (those that come with scikit-learn). It is "
            f"right for {self.train_accuracy:.1%} of the {images}\nimages trained on, and for "
            f"{self.test_accuracy:.1%} of {self.num_test:,} others.\n\n"
            f"Analysed: the Hessian of its training loss, the {weights:,} x {weights:,} matrix of "
            "second derivatives. Its\neigenvalues are the curvatures of the loss: large ones belong to "
            "the few directions in which it\nrises steeply, those near zero to directions that hardly "
            "matter, negative ones to directions in\nwhich it bends down. The matrix is never formed; "
            "all below comes from products with vectors."
        )


def train_on_digits(*, num_epochs: int = 8, num_images: int = 768, seed: int = 0) -> Trained:
    """Train a small convolutional network on handwritten digits.

    Parameters
    ----------
    num_epochs : int
        Passes over the training images.
    num_images : int
        Images of the 1,797 to train on and to analyse; the others are for the test.
    seed : int
        Of the initial weights and of the order of images.

    Returns
    -------
    Trained
        The network, its loss and its data.

    Raises
    ------
    ImportError
        If scikit-learn, which ships the images, is missing.
    ValueError
        If `num_images` leaves no image to train on or to test with.
    """
    images, labels = _load()
    if not 0 < num_images < len(images):
        raise ValueError(f"num_images={num_images} must be between 1 and {len(images) - 1}")
    # The caller's random state stays as it is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network()
        _train(model, images[:num_images], labels[:num_images], num_epochs)
    model.eval()
    batches = zip(
        torch.split(images[:num_images], 256), torch.split(labels[:num_images], 256), strict=True
    )
    return Trained(
        model=model,
        loss=nn.CrossEntropyLoss(),
        data=list(batches),
        train_accuracy=_accuracy(model, images[:num_images], labels[:num_images]),
        test_accuracy=_accuracy(model, images[num_images:], labels[num_images:]),
        num_test=len(images) - num_images,
    )


def digits(*, num_epochs: int = 8, num_images: int = 768, seed: int = 0) -> tuple[Any, Any, Any]:
    """Train as `train_on_digits` does, and return what ``hessops analyze`` takes.

    Parameters
    ----------
    num_epochs, num_images, seed : int
        As for `train_on_digits`.

    Returns
    -------
    tuple
        ``(model, loss, data)``: the model in eval mode, mean cross-entropy, a list of batches.
    """
    trained = train_on_digits(num_epochs=num_epochs, num_images=num_images, seed=seed)
    return trained.model, trained.loss, trained.data


def _load() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the demo needs scikit-learn, the extra 'demo': pip install '.[demo]' in a clone, "
            "pip install 'hessops[demo]' elsewhere"
        ) from error
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16
    return images, torch.tensor(raw.target)


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).double().mean())


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def _train(model: nn.Module, images: Tensor, labels: Tensor, num_epochs: int) -> None:
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(num_epochs):
        order = torch.randperm(len(images))
        for chosen in torch.split(order, 64):
            optimizer.zero_grad()
            loss(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
