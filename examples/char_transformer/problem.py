"""A character transformer, its loss and its data, for ``hessops analyze``."""

import torch
from text import batches_of, read_text
from torch import Tensor, nn
from transformer import CharTransformer, train

__all__ = ["problem"]


def problem(
    *,
    data: str | None = None,
    steps: int = 600,
    length: int = 32,
    width: int = 32,
    depth: int = 2,
    num_windows: int = 256,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[CharTransformer, nn.CrossEntropyLoss, list[tuple[Tensor, Tensor]]]:
    """Return a model after training, the loss, and the windows whose curvature is to be studied.

    Parameters
    ----------
    data
        A file of text; this example's own files where not given.
    steps
        Of training, each with a batch of its own; 0 for an untrained model.
    length
        Characters of a window.
    width, depth
        Of the transformer.
    num_windows, batch_size
        Windows of the Hessian, and to a batch.
    seed
        Of the weights and of the windows.

    Returns
    -------
    model : CharTransformer
        In eval mode.
    loss : nn.CrossEntropyLoss
        Mean over all characters.
    batches : list of (Tensor, Tensor)
        Windows and the characters that follow.
    """
    text = read_text(data)
    options = {"length": length, "batch_size": batch_size}
    batches, alphabet = batches_of(text, num_windows=num_windows, seed=seed, **options)
    # Forked, so that drawing the weights leaves the caller's generator where it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = CharTransformer(len(alphabet), length, width=width, depth=depth)
    to_learn, _ = batches_of(text, num_windows=max(steps, 1) * batch_size, seed=seed + 1, **options)
    train(model, to_learn, steps=steps)
    return model.eval(), nn.CrossEntropyLoss(), batches
