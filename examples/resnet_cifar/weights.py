"""Trained weights for the CIFAR ResNets, read without running what a file might carry."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

import torch
from resnet import ResNet
from torch import Tensor

__all__ = ["load_weights"]


def load_weights(model: ResNet, path: str | PathLike[str]) -> None:
    """Load trained weights into a model of the same architecture, in place.

    The file holds a state dictionary, bare or under the key ``state_dict``, whose names may
    start with the ``module.`` of a data-parallel training run. Shortcuts have no parameters, so
    whether the weights were trained with or without them cannot be seen and is not checked.

    Parameters
    ----------
    model
        Network that takes the weights.
    path
        File written by ``torch.save``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no CIFAR ResNet, or one of another depth, number of classes, or with
        batch norm where `model` has none, or the other way round.
    """
    state = _read_state(path)
    try:
        found = _architecture(state)
    except KeyError as error:
        raise ValueError(f"{path} holds no CIFAR ResNet: the entry {error} is missing") from None
    wanted = _architecture(model.state_dict())
    if found != wanted:
        raise ValueError(f"{path} holds {found}, the model is {wanted}: build the model to match")
    model.load_state_dict(state)


def _read_state(path: str | PathLike[str]) -> dict[str, Tensor]:
    # Trained on a GPU, such files would otherwise ask for one here too.
    content = torch.load(path, map_location="cpu", weights_only=True)
    state: Mapping[str, Tensor] = content.get("state_dict", content)
    return {name.removeprefix("module."): value for name, value in state.items()}


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    depth: int
    batch_norm: bool
    num_classes: int

    def __str__(self) -> str:
        return (
            f"a ResNet with depth={self.depth}, batch_norm={self.batch_norm} "
            f"and {self.num_classes} classes"
        )


def _architecture(state: Mapping[str, Tensor]) -> _Architecture:
    blocks = {match[1] for name in state if (match := re.match(r"layer1\.(\d+)\.", name))}
    return _Architecture(
        depth=6 * len(blocks) + 2,
        batch_norm="bn1.weight" in state,
        num_classes=len(state["linear.weight"]),
    )
