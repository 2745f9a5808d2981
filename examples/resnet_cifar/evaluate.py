"""Print the test accuracy of trained weights."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from cifar import load_cifar, num_classes
from resnet import ResNet
from torch import Tensor, nn
from weights import load_weights

__all__ = ["accuracy"]


def main(
    *,
    data: Annotated[Path, typer.Option(help="CIFAR-10 or CIFAR-100: .npz file or folder.")],
    weights: Annotated[Path, typer.Option(help="File of trained weights.")],
    depth: Annotated[int, typer.Option(help="Depth of the network, 6 n + 2.")] = 20,
    batch_norm: Annotated[bool, typer.Option(help="The network has batch norm.")] = True,
    residual: Annotated[bool, typer.Option(help="The network has shortcuts.")] = True,
    limit: Annotated[int | None, typer.Option(help="Take the first so many images only.")] = None,
) -> None:
    """Print the test accuracy of trained weights."""
    images, labels = load_cifar(data, train=False, limit=limit)
    model = ResNet(depth, batch_norm=batch_norm, residual=residual, num_classes=num_classes(data))
    load_weights(model, weights)
    percent = 100 * accuracy(model, images, labels)
    typer.echo(f"{weights.name}: {percent:.2f} % of {len(labels)} test images")


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 250) -> float:
    """Return the share of images whose largest logit is that of their label.

    Parameters
    ----------
    model
        Network; it is put in eval mode.
    images, labels
        Images (count, 3, 32, 32) and labels (count,).
    batch_size
        Images per forward pass; it bounds the memory and leaves the result as it is.

    Returns
    -------
    float
        Between 0 and 1.
    """
    model.eval()
    with torch.inference_mode():
        predictions = [
            model(images[start : start + batch_size]).argmax(dim=1)
            for start in range(0, len(images), batch_size)
        ]
    return (torch.cat(predictions) == labels).double().mean().item()


if __name__ == "__main__":
    typer.run(main)
