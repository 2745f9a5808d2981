"""One run at a time in a folder: two would mix their products."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path

from hessops.errors import CheckpointError

__all__ = ["LOCK_NAME", "FolderLock"]

LOCK_NAME = "lock"
# What this process holds. The system's locks belong to a process as a whole.
_held: weakref.WeakValueDictionary[str, FolderLock] = weakref.WeakValueDictionary()
_guard = threading.Lock()


class FolderLock:
    """Holds a folder until it is collected, or its process ends, however it ends.

    The file ``lock`` in the folder says who holds it. Whether it still does, the system knows; on file
    systems without locks, it is asked whether a process of that number is alive. To open a folder
    again in the same process is to begin anew: the older lock loses it.

    Parameters
    ----------
    folder : Path
        A folder that exists.

    Raises
    ------
    CheckpointError
        If another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = os.getpid()
        self._lost = False
        key = str(folder.resolve())
        with _guard:
            older = _held.get(key)
            if older is not None:
                older._lose()
            self._release = weakref.finalize(self, _give_back, _take(folder), self._process)
            _held[key] = self

    def require_held(self) -> None:
        """Raise if the folder was lost to a later lock, or this is a copy in another process."""
        if os.getpid() != self._process:
            raise CheckpointError(
                f"{self.folder} is recorded by the process {self._process}, from which this one was "
                "forked: give this one a folder of its own"
            )
        if self._lost:
            raise CheckpointError(
                f"{self.folder} has been opened again since, by a later checkpointed(...) in this "
                "process: multiply with that operator, or give each a folder of its own"
            )

    def _lose(self) -> None:
        self._lost = True
        self._release()


def _take(folder: Path) -> int:
    """Return an open, locked file, or say who has it."""
    path = folder / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    holder = _read(descriptor)
    hint = _held_elsewhere(descriptor, holder, path)
    if hint is not None:
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        raise CheckpointError(
            f"{path.parent} is in use by {who}, and two runs would mix their products: wait for it, "
            f"or give each a folder of its own{hint}"
        )
    _write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))


def _held_elsewhere(descriptor: int, holder: dict[str, object], path: Path) -> str | None:
    """Lock the file and return None, or return what to add to the refusal."""
    if sys.platform != "win32":
        import fcntl

        try:
            # Not flock, which the forks of a killed process would go on holding.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return ""
        except OSError:  # a file system without locks
            return None if _is_gone(holder) else f"; if that process is gone, delete {path}"
        return None
    return f"; if that process is gone, delete {path}" if holder else None


def _is_gone(holder: dict[str, object]) -> bool:
    """Tell whether nobody holds the file, as far as can be told from this host."""
    if not holder:
        return True
    if holder["host"] != socket.gethostname():
        return False
    pid = int(str(holder["pid"]))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return pid == os.getpid()


def _read(descriptor: int) -> dict[str, object]:
    """Return who wrote the file; nobody, if it is empty or was being written."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(descriptor, 4096))
        return {"pid": int(holder["pid"]), "host": str(holder["host"])}
    except (ValueError, LookupError, TypeError):
        return {}


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())


def _give_back(descriptor: int, process: int) -> None:
    with suppress(OSError):
        # A fork has the same descriptor, but not the lock.
        if os.getpid() == process:
            os.ftruncate(descriptor, 0)
        os.close(descriptor)
