"""A CIFAR ResNet, its loss and its data, for ``hessops analyze``."""

import torch
from cifar import load_cifar, num_classes
from resnet import ResNet
from torch import Tensor, nn
from weights import load_weights

__all__ = ["problem"]


def problem(
    *,
    data: str,
    weights: str | None = None,
    depth: int = 20,
    batch_norm: bool = True,
    residual: bool = True,
    num_images: int = 256,
    batch_size: int = 128,
    seed: int = 0,
) -> tuple[ResNet, nn.CrossEntropyLoss, list[tuple[Tensor, Tensor]]]:
    """Return the model, the loss and the batches whose curvature is to be studied.

    Parameters
    ----------
    data
        CIFAR-10 or CIFAR-100, as for `cifar.load_cifar`; it sets the number of classes.
    weights
        File of trained weights. Without it the network is untrained, drawn from `seed`.
    depth, batch_norm, residual
        Architecture, as for `resnet.ResNet`.
    num_images
        Take the first so many training images.
    batch_size
        Images per batch; the last batch holds what is left.
    seed
        Seed of the untrained network's weights.

    Returns
    -------
    model : ResNet
        In eval mode, so that batch norm treats each image alone and the loss is a mean over
        images whatever the batches.
    loss : nn.CrossEntropyLoss
        Mean cross-entropy of a batch.
    batches : list of (Tensor, Tensor)
        Images (batch_size, 3, 32, 32) and labels (batch_size,).

    Raises
    ------
    FileNotFoundError
        If `data` or `weights` is missing.
    ValueError
        If `depth`, `num_images` or `batch_size` is out of range, or the weights are of another
        architecture.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: take at least 1 image per batch")
    images, labels = load_cifar(data, train=True, limit=num_images)
    # Forked, so that drawing the weights leaves the caller's generator where it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = ResNet(
            depth, batch_norm=batch_norm, residual=residual, num_classes=num_classes(data)
        )
    if weights is not None:
        load_weights(model, weights)
    batches = [
        (images[start : start + batch_size], labels[start : start + batch_size])
        for start in range(0, num_images, batch_size)
    ]
    return model.eval(), nn.CrossEntropyLoss(), batches
