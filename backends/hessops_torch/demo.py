"""The problem of ``hessops demo``: a small network with batch norm, trained on handwritten digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["digits"]


def digits(*, num_epochs: int = 8, num_images: int = 768, seed: int = 0) -> tuple[Any, Any, Any]:
    """Train a small convolutional network and return it with its loss and data.

    Parameters
    ----------
    num_epochs : int
        Passes over the training images.
    num_images : int
        Images of the 1,797 to train on and to analyse.
    seed : int
        Of the initial weights and of the order of images.

    Returns
    -------
    tuple
        ``(model, loss, data)``: the model in eval mode, mean cross-entropy, a list of batches.

    Raises
    ------
    ImportError
        If scikit-learn, which ships the images, is missing.
    """
    images, labels = _load(num_images)
    # The caller's random state stays as it is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network()
        _train(model, images, labels, num_epochs)
    model.eval()
    batches = list(zip(torch.split(images, 256), torch.split(labels, 256), strict=True))
    return model, nn.CrossEntropyLoss(), batches


def _load(num_images: int) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the demo needs scikit-learn: pip install 'hessops[demo]'") from error
    raw = load_digits()
    images = torch.tensor(raw.images[:num_images], dtype=torch.float32)[:, None] / 16
    return images, torch.tensor(raw.target[:num_images])


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
