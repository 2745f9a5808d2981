"""A text as numbers: its characters, and windows of it to learn from."""

from pathlib import Path

import torch
from torch import Tensor

__all__ = ["batches_of", "read_text"]


def read_text(path: str | None = None, limit: int | None = None) -> str:
    """Return a text to learn from.

    Parameters
    ----------
    path
        A file of plain text. Without it, this example's own README and programs, which are short:
        enough to see that everything runs.
    limit
        Take no more characters than that.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    if path is not None:
        return Path(path).read_text(encoding="utf-8")[:limit]
    own = sorted(Path(__file__).parent.glob("*.*"))
    return "".join(
        file.read_text(encoding="utf-8") for file in own if file.suffix in {".md", ".py"}
    )[:limit]


def batches_of(
    text: str, *, length: int, num_windows: int, batch_size: int, seed: int
) -> tuple[list[tuple[Tensor, Tensor]], str]:
    """Return windows from random places of a text as batches of (characters, the next ones).

    Parameters
    ----------
    text
        Longer than a window.
    length
        Characters of a window.
    num_windows, batch_size
        Windows in all, and to a batch.
    seed
        Of the places.

    Returns
    -------
    batches : list of (Tensor, Tensor)
        Indices of characters, (batch_size, length) each.
    alphabet : str
        The characters in their order.

    Raises
    ------
    ValueError
        If the text is too short.
    """
    if len(text) <= length:
        raise ValueError(
            f"a text of {len(text)} characters has no window of {length} and a next one"
        )
    alphabet = "".join(sorted(set(text)))
    numbers = {character: number for number, character in enumerate(alphabet)}
    encoded = torch.tensor([numbers[character] for character in text])
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(encoded) - length, (num_windows,), generator=generator)
    windows = torch.stack([encoded[start : start + length + 1] for start in starts.tolist()])
    return [(part[:, :-1], part[:, 1:]) for part in windows.split(batch_size)], alphabet
