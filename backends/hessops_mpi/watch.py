"""No rank waits for ever: what a rank waits for, and what ends all of them when it will not come.

An exception that nobody catches, a rank that has ended early, and a wait that is longer than a time-out
each end the whole job, with one sentence and an exit code that is not 0. A rank that is killed is the
launcher's to notice.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from mpi4py import MPI

__all__ = ["Watch", "end_all", "waiting"]

_INTERVAL = 0.25
# Another rank may be about to be through with the same collective.
_GRACE = 2.0
# Where several ranks fail alike, the first to speak ends all: it should be one that knows why.
_AFTER_RANK_0, _AFTER_THE_FAILED = 0.3, 1.0
_GOODBYE = 1
_FAILED, _INTERRUPTED = 1, 130

# What this process waits for: the name of the collective, and since when.
_in_flight: list[tuple[str, float]] = []


@contextmanager
def waiting(call: str) -> Iterator[None]:
    """Say that this rank waits for the others in a collective while the body runs.

    Parameters
    ----------
    call : str
        The collective, for the message.

    Yields
    ------
    None
        While it waits.
    """
    _in_flight.append((call, time.monotonic()))
    try:
        yield
    finally:
        _in_flight.pop()


def end_all(code: int) -> NoReturn:
    """End all ranks at once, whatever they are doing; the exit code is the job's."""
    sys.stdout.flush()
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(code)
    os._exit(code)  # not reached


class Watch:
    """Ends all ranks when one of them has failed, has ended early, or waits too long.

    A daemon thread looks every quarter of a second; it costs nothing else.

    Parameters
    ----------
    mpi : mpi4py.MPI.Intracomm
        All ranks, for nothing but the watch.
    timeout : float
        Seconds that a rank may wait in one collective.
    """

    def __init__(self, mpi: MPI.Intracomm, timeout: float) -> None:
        self.timeout = timeout
        self._mpi = mpi
        self._rank, self._size = mpi.Get_rank(), mpi.Get_size()
        self._hook = sys.excepthook
        # Other threads may use MPI only if all of it may be used by many.
        self._may_probe = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        sys.excepthook = self._end_after
        atexit.register(self._say_goodbye)
        threading.Thread(target=self._look, daemon=True, name="hessops-mpi-watch").start()

    def _end_after(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Show an exception that nobody has caught, and end all ranks."""
        told = hasattr(error, "told_by")
        time.sleep(_AFTER_THE_FAILED if told else _AFTER_RANK_0 * (self._rank > 0))
        interrupted = issubclass(kind, KeyboardInterrupt)
        what = "was interrupted" if interrupted else "failed"
        self._say(f"rank {self._rank} of {self._size} {what}, which ends all ranks")
        self._hook(kind, error, trace)
        end_all(_INTERRUPTED if interrupted else _FAILED)

    def _look(self) -> None:
        while True:
            time.sleep(_INTERVAL)
            waits = _in_flight[-1:]
            if not waits:
                continue
            (call, since) = waits[0]
            seconds = time.monotonic() - since
            gone = self._gone() if seconds > _GRACE else None
            if gone is not None:
                self._end(
                    f"rank {gone} has ended, and rank {self._rank} waits for it in {call}: every "
                    "rank has to make the same calls, and sys.exit ends one rank alone (raise an "
                    "exception instead)"
                )
            if seconds > self.timeout:
                self._end(
                    f"rank {self._rank} of {self._size} has waited {seconds:.0f} s in {call} for "
                    "another rank, which hangs, computes for longer, or makes other calls: look what "
                    "it does (py-spy dump --pid), or raise the limit by world(timeout=...) or "
                    "HESSOPS_MPI_TIMEOUT"
                )

    def _gone(self) -> int | None:
        """Return a rank that has ended, as far as this one is told: rank 0 of all, others of rank 0."""
        if not self._may_probe:
            return None
        status = MPI.Status()
        source = MPI.ANY_SOURCE if self._rank == 0 else 0
        return status.Get_source() if self._mpi.Iprobe(source, _GOODBYE, status) else None

    def _say_goodbye(self) -> None:
        """Tell those who may wait that this rank ends, and wait until all end."""
        if MPI.Is_finalized():
            return
        others = range(1, self._size) if self._rank == 0 else [0]
        sent = [self._mpi.isend(None, other, _GOODBYE) for other in others]
        for _ in others:
            while not self._mpi.Iprobe(MPI.ANY_SOURCE, _GOODBYE):
                time.sleep(0.002)
            self._mpi.recv(source=MPI.ANY_SOURCE, tag=_GOODBYE)
        MPI.Request.Waitall(sent)

    def _end(self, sentence: str) -> NoReturn:
        self._say(sentence)
        if self._may_probe:
            end_all(_FAILED)
        os._exit(_FAILED)

    def _say(self, sentence: str) -> None:
        sys.stderr.write(f"hessops: {sentence}\n")
        sys.stderr.flush()
