"""The trained ResNet20 of benchmarks with real data, from the folder that HESSOPS_DATA names."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import typer

__all__ = ["trained_resnet20"]

_EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "resnet_cifar"
_WEIGHTS = "resnet20-12fca82f.th"


def trained_resnet20(images: int, batch: int, *, untrained: bool = False) -> tuple[Any, Any, Any]:
    """Return the model, its loss and batches of the first training images of CIFAR-10.

    Parameters
    ----------
    images, batch : int
        How many images, and how many of them to a batch.
    untrained : bool
        Random weights instead.

    Returns
    -------
    tuple
        Model, loss, list of batches.
    """
    folder = os.environ.get("HESSOPS_DATA")
    if folder is None:
        raise typer.BadParameter(
            "set HESSOPS_DATA to a folder with cifar10.npz and resnet_cifar10; what is in them says "
            "examples/resnet_cifar/README.md"
        )
    weights = None if untrained else str(Path(folder) / "resnet_cifar10" / _WEIGHTS)
    # By file: a benchmark has a module named `problem` of its own.
    sys.path.append(str(_EXAMPLE))
    spec = importlib.util.spec_from_file_location("cifar_problem", _EXAMPLE / "problem.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python module in {_EXAMPLE}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = str(Path(folder) / "cifar10.npz")
    found: tuple[Any, Any, Any] = module.problem(
        data=data, weights=weights, num_images=images, batch_size=batch
    )
    return found
