"""A folder of products in the order in which they were made: one header, one file for each block."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy

from hessops.arrays import HostArray
from hessops.atomic_file import atomic_file
from hessops.checkpoint.entry import Entry
from hessops.checkpoint.folder_lock import LOCK_NAME, FolderLock
from hessops.checkpoint.ranks import Ranks
from hessops.checkpoint.sketch import Sketcher, deviations
from hessops.errors import CheckpointError
from hessops.version import __version__

__all__ = ["Record"]

T = TypeVar("T")

_FORMAT = 1
_HEADER = "checkpoint.json"
_ENTRY = re.compile(r"(\d{8,})((?:\.rank-\d+)?)\.npz")
_PARTIAL = re.compile(rf"({_ENTRY.pattern}|{re.escape(_HEADER)})\.[0-9a-f]{{8}}\.partial")
_UNUSABLE = (
    "cannot keep a record of products in {folder}: {why}; name a folder that can be written to"
)
_UNWRITTEN = (
    "a product cannot be recorded in {folder}: {why}. Those recorded before are kept: mend that, and "
    "run the same again to go on from there"
)
_RESTART = "throw the record away by checkpointed(..., restart=True)"


class Record:
    """The products of one run.

    At any moment the files ``00000000.npz``, ``00000001.npz``, ... are all the products up to some
    point, each of them whole; what a killed process left half written is removed.

    Parameters
    ----------
    folder : Path
        Where it is; made where it is missing.
    description : dict
        What JSON can hold of the operator, under ``operator`` in words: it has to be the same again.
    ranks : Ranks
        Who keeps what.
    restart : bool
        Throw away what is there.

    Raises
    ------
    CheckpointError
        If the folder holds something else, is in use, or the record is of another operator or damaged.
    OSError
        If the folder cannot be made, read or written.
    """

    def __init__(
        self, folder: Path, description: dict[str, Any], ranks: Ranks, *, restart: bool
    ) -> None:
        self.folder = folder
        self.ranks = ranks
        self._lock: FolderLock | None = None
        self._made_with = ranks.by_root(
            lambda: self._in_words(lambda: self._open(description, restart), _UNUSABLE)
        )
        count = ranks.least(ranks.by_keepers(lambda: self._in_words(self._survey, _UNUSABLE)))
        self.nbytes: int = ranks.by_keepers(lambda: self._in_words(self._cut(count), _UNUSABLE))
        self.num_recorded = count
        self.num_replayed = self.num_made = 0

    def is_at_the_end(self) -> bool:
        """Tell whether the next product has to be made."""
        return self.num_replayed == self.num_recorded - self.num_made

    def replay(self, call: str, sketch: HostArray, sketcher: Sketcher) -> Entry:
        """Return the next entry, or raise if it was recorded of another call or block."""

        def read() -> Entry:
            self._require_lock()
            entry = Entry.read(self._path(self.num_replayed))
            self._require_same_call(entry, call, sketch, sketcher)
            return entry

        entry = self.ranks.by_keepers(read)
        self.num_replayed += 1
        return entry

    def append(self, entry: Entry) -> None:
        """Write the next entry; when this returns, it is on the disk."""

        def write() -> int:
            self._require_lock()
            path = self._path(self.num_recorded)
            self._in_words(lambda: entry.write(path), _UNWRITTEN)
            return path.stat().st_size

        self.nbytes += self.ranks.by_keepers(write)
        self.num_recorded += 1
        self.num_made += 1

    def require_same_operator(
        self, call: str, found: HostArray, recorded: HostArray, sketcher: Sketcher
    ) -> None:
        """Raise if the operator's product with a fixed vector is not what it was."""

        def compare() -> None:
            off = float(deviations(found, recorded).max())
            if off > sketcher.half_precision():
                raise CheckpointError(
                    f"{self.folder} was recorded of another operator: the {call} with a fixed vector "
                    f"differs by {off:.2g} of its norm, so its weights, data or code have changed"
                    f"{self._changes()}. Use the operator that was recorded, name another folder, or "
                    f"{_RESTART}"
                )

        self.ranks.by_keepers(compare)

    def _open(self, description: dict[str, Any], restart: bool) -> dict[str, str]:
        """Have the folder to oneself, with a header that fits; return what it was made with."""
        self._make_folder()
        self._require_nothing_else()
        self._lock = FolderLock(self.folder)
        for path in self._files(_PARTIAL):
            path.unlink()
        header = self.folder / _HEADER
        if restart:
            # From the last on, so that what is left is a record at any moment.
            for path in sorted(self._files(_ENTRY), reverse=True):
                path.unlink()
            header.unlink(missing_ok=True)
        if header.exists():
            return self._made_with_of(header, description)
        document = {"format": _FORMAT, **description, "made with": _environment()}
        with atomic_file(header) as file:
            file.write(json.dumps(document, indent=1).encode())
        return _environment()

    def _make_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(
                f"{self.folder} is a file, and a record of products needs a folder: name another"
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def _require_nothing_else(self) -> None:
        """Raise if the folder is used for something else."""
        names = {path.name for path in self.folder.iterdir()}
        others = sorted(names - {LOCK_NAME} - {path.name for path in self._files(_PARTIAL)})
        if others and _HEADER not in names:
            raise CheckpointError(
                f"{self.folder} holds {', '.join(others[:3])} and no {_HEADER}, so it is no record of "
                "products: name a new or an empty folder"
            )

    def _made_with_of(self, header: Path, description: dict[str, Any]) -> dict[str, str]:
        try:
            document = json.loads(header.read_bytes())
            version, made_with = int(document["format"]), dict(document["made with"])
            recorded = {key: document[key] for key in description}
        except (ValueError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{header} is damaged ({error!r}): name another folder, or {_RESTART}"
            ) from error
        if version > _FORMAT:
            raise CheckpointError(
                f"{self.folder} was recorded by a later version of hessops; upgrade to go on"
            )
        differing = [
            f"{key} {json.dumps(recorded[key])} and {json.dumps(value)}"
            for key, value in description.items()
            if recorded[key] != value and key != "operator"
        ]
        if differing:
            raise CheckpointError(
                f"{self.folder} was recorded of {recorded['operator']}, which is not "
                f"{description['operator']}: {'; '.join(differing)} differ. Name another folder, or "
                f"{_RESTART}"
            )
        return made_with

    def _survey(self) -> int:
        """Return how many products this rank keeps."""
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = {_number(path) for path in self._own_files()}
        missing = sorted(set(range(len(numbers))) - numbers)
        if missing:
            raise CheckpointError(
                f"{self._path(missing[0])} is missing, and so the record ends before it: delete the "
                f"files of higher numbers to go on from there, or {_RESTART}"
            )
        return len(numbers)

    def _cut(self, count: int) -> Callable[[], int]:
        """Return what removes the products that another rank lacks; it returns the bytes left."""

        def cut() -> int:
            nbytes = 0
            for path in sorted(self._own_files(), reverse=True):
                if _number(path) < count:
                    nbytes += path.stat().st_size
                else:
                    path.unlink()
            return nbytes

        return cut

    def _require_lock(self) -> None:
        if self._lock is not None:
            self._lock.require_held()

    def _require_same_call(
        self, entry: Entry, call: str, sketch: HostArray, sketcher: Sketcher
    ) -> None:
        causes = "The seed, settings, data, code, libraries or the number of threads have changed"
        if entry.call != call:
            difference = f"is asked for the {call} and was recorded of the {entry.call}"
        elif entry.sketch.shape != sketch.shape:
            columns = sketch.shape[1], entry.sketch.shape[1]
            difference = (
                f"is asked for with {columns[0]} vectors and was recorded with {columns[1]}"
            )
        else:
            off = deviations(sketch, entry.sketch)
            if not off.size or off.max() <= sketcher.rounding():
                return
            difference = (
                f"is asked for with other vectors than were recorded (column {int(off.argmax())} "
                f"differs by {off.max():.2g} of its norm)"
            )
            causes = (
                "If rng was not given, every process draws a new seed: give rng a number. Else t"
                + causes[1:]
            )
        raise CheckpointError(
            f"{self.folder} was recorded by another run: its product {self.num_replayed} {difference}. "
            f"{causes}{self._changes()}. Run what was recorded, name another folder, or {_RESTART}"
        )

    def _changes(self) -> str:
        """Return what is known to have changed since the record was begun, in brackets."""
        now = _environment()
        changed = [
            f"{name} {before} is now {now.get(name, 'gone')}"
            for name, before in self._made_with.items()
            if now.get(name) != before
        ]
        return f" ({', '.join(changed)})" if changed else ""

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.ranks.name(f'{number:08d}')}.npz"

    def _own_files(self) -> list[Path]:
        mine = self.ranks.name("")
        return [path for path in self._files(_ENTRY) if _suffix(path) == mine]

    def _files(self, pattern: re.Pattern[str]) -> list[Path]:
        return [path for path in self.folder.iterdir() if pattern.fullmatch(path.name)]

    def _in_words(self, action: Callable[[], T], sentence: str) -> T:
        """Return what an action returns; what the system refuses is said in words."""
        try:
            return action()
        except OSError as error:
            if error.strerror is None:  # in words already
                raise
            raise type(error)(sentence.format(folder=self.folder, why=error.strerror)) from error


def _number(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _suffix(path: Path) -> str:
    match = _ENTRY.fullmatch(path.name)
    return "" if match is None else match.group(2)


def _environment() -> dict[str, str]:
    """Return what results may depend on in their last digits, or more."""
    return {
        "hessops": __version__,
        "NumPy": np.__version__,
        "SciPy": scipy.__version__,
        "machine": platform.machine(),
        "CPUs": str(os.cpu_count()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
