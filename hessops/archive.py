"""Arrays and a JSON document in one ``.npz`` file, without pickle and with checksums."""

from __future__ import annotations

import json
import tokenize
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np

from hessops.arrays import HostArray
from hessops.atomic_file import atomic_file

__all__ = ["BROKEN", "read_archive", "write_archive"]

# What NumPy raises of a file that is no archive, or a damaged one, depends on what else it is.
BROKEN = (
    *(LookupError, TypeError, ValueError, AttributeError, NotImplementedError, EOFError, OSError),
    *(BadZipFile, zlib.error, tokenize.TokenError, SyntaxError),
)


def write_archive(target: Path, document: Any, arrays: Mapping[str, HostArray]) -> None:
    """Write arrays and a document that JSON can hold: all of it, or nothing.

    Parameters
    ----------
    target : Path
        The file; one of that name is replaced.
    document : object
        What JSON can hold.
    arrays : mapping of str to numpy.ndarray
        None of them called ``document``.
    """
    everything = {"document": np.array(json.dumps(document)), **arrays}
    with atomic_file(target) as file:
        np.savez(file, **everything)  # type: ignore[arg-type]


def read_archive(file: BinaryIO) -> tuple[Any, dict[str, HostArray]]:
    """Return the document and the arrays of a file; one that is damaged raises one of `BROKEN`.

    Parameters
    ----------
    file : file
        Open to read bytes.

    Returns
    -------
    document : object
        What JSON held.
    arrays : dict of str to numpy.ndarray
        The arrays. Their checksums, which the archive keeps, have been compared.
    """
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(str(arrays.pop("document"))), arrays
