"""Random probes that depend on the seed, the probe and the entry, and on nothing else.

Each probe is a counter-based stream (Philox 4x64, Salmon, Moraes, Dror & Shaw 2011): entry ``i`` of
probe ``j`` is a function of ``(seed, j, i)``. So the same seed gives the same probes for every array
library, for any number of ranks, any block size, and after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = ["ProbeKind", "Purpose", "RandomState", "Stream", "draw", "require_kind", "seed_from"]

ProbeKind: TypeAlias = Literal["rademacher", "steinhaus", "normal", "sphere"]
"""Distribution of a probe's entries; all have mean zero and E[z z^H] = I."""

RandomState: TypeAlias = int | np.random.Generator | None
"""What every verb takes as `rng` (SPEC 7): a seed, a generator to draw one from, or None."""


class Purpose(IntEnum):
    """What a sequence is drawn for; sequences for different purposes are independent."""

    TRACE = 0
    DIAGONAL = 1
    DENSITY = 2
    START = 3
    RESTART = 4
    CHECK_DOMAIN = 5
    CHECK_CODOMAIN = 6
    FUNCTION = 9
    RANGE = 7
    SKETCH = 8
    NORM = 11
    COUNT = 12
    CHECKPOINT = 20
    SPECTRUM = 13
    LABELS = 30


_WORDS_PER_BLOCK = 4
_BITS_PER_WORD = 64
MAX_SEED = 2**64


@dataclass(frozen=True)
class Stream:
    """A family of independent random sequences, one per probe.

    Parameters
    ----------
    seed : int
        Below 2**64.
    purpose : int
        Sequences drawn for different purposes from one seed are independent.
    term : int
        Index of the term of a finite sum that the probes are for.
    """

    seed: int
    purpose: int = 0
    term: int = 0

    def for_term(self, term: int) -> Stream:
        """Return the stream of fresh probes for one term of a finite sum."""
        return replace(self, term=term)

    def for_purpose(self, purpose: int) -> Stream:
        """Return an independent stream from the same seed."""
        return replace(self, purpose=purpose)

    def words(self, probe: int, start: int, stop: int, part: int = 0) -> NDArray[np.uint64]:
        """Return the 64-bit words `start` to `stop` of one probe's sequence."""
        block = start // _WORDS_PER_BLOCK
        generator = np.random.Philox(
            key=np.array([self.seed, probe], dtype=np.uint64),
            counter=np.array([block, part, self.term, self.purpose], dtype=np.uint64),
        )
        skipped = start - block * _WORDS_PER_BLOCK
        return generator.random_raw(skipped + stop - start)[skipped:]


def seed_from(rng: RandomState) -> int:
    """Return the seed that stands for `rng`; passing it as `rng` repeats the run.

    Parameters
    ----------
    rng : int, numpy.random.Generator or None
        An integer is the seed itself; a generator is asked for one (and advances); None takes fresh
        entropy from the operating system.

    Returns
    -------
    int
        At least 0 and below 2**64.

    Raises
    ------
    ValueError
        If an integer is negative or needs more than 64 bits.
    TypeError
        If `rng` is none of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from hessops.random import seed_from
    >>> seed_from(7)
    7
    >>> seed_from(np.random.default_rng(0)) == seed_from(np.random.default_rng(0))
    True
    """
    if isinstance(rng, bool):
        raise TypeError(f"rng={rng} is a truth value; pass an integer seed, a Generator or None")
    if isinstance(rng, int | np.integer):
        if not 0 <= int(rng) < MAX_SEED:
            raise ValueError(f"rng={rng} is no seed: it must be at least 0 and below 2**64")
        return int(rng)
    if rng is None or isinstance(rng, np.random.Generator):
        generator = np.random.default_rng(rng)
        return int(generator.integers(2**63))
    raise TypeError(
        f"rng={rng!r} is a {type(rng).__name__}; pass an integer seed, a numpy.random.Generator "
        "or None"
    )


def draw(
    stream: Stream, probe: int, start: int, stop: int, kind: ProbeKind, *, complex_valued: bool
) -> NDArray[Any]:
    """Return entries `start` to `stop` of one probe on the host.

    Parameters
    ----------
    stream : Stream
        Where the randomness comes from.
    probe : int
        Index of the probe.
    start, stop : int
        The rows wanted of the (arbitrarily long) probe.
    kind : {'rademacher', 'steinhaus', 'normal', 'sphere'}
        Signs; unit complex numbers; standard normal numbers; and, for 'sphere', the normal numbers
        that a `Space` still has to scale to norm sqrt(n), which takes all rows.
    complex_valued : bool
        Whether normal entries are complex (with unit variance).

    Returns
    -------
    numpy.ndarray
        Shape (stop - start,); int8 for signs, else float64 or complex128.

    Raises
    ------
    ValueError
        If `kind` is unknown, or 'steinhaus' is asked of a real operator.
    """
    require_kind(kind, complex_valued=complex_valued)
    if kind == "rademacher":
        return _signs(stream, probe, start, stop)
    if kind == "steinhaus":
        phase = 2 * np.pi * _uniform(stream, probe, start, stop, part=0)
        return np.cos(phase) + 1j * np.sin(phase)
    normal = np.asarray(ndtri(_uniform(stream, probe, start, stop, part=0)))
    if complex_valued:
        imaginary = ndtri(_uniform(stream, probe, start, stop, part=1))
        return np.asarray((normal + 1j * imaginary) / np.sqrt(2))
    return normal


def require_kind(kind: str, *, complex_valued: bool) -> None:
    """Raise if probes are of no known kind, or of one that a real operator has no use for."""
    if kind not in get_args(ProbeKind):
        raise ValueError(
            f"probe={kind!r} is unknown; choose one of {', '.join(get_args(ProbeKind))}"
        )
    if kind == "steinhaus" and not complex_valued:
        raise ValueError(
            "probe='steinhaus' draws complex numbers and this operator is real; use 'rademacher'"
        )


def _signs(stream: Stream, probe: int, start: int, stop: int) -> NDArray[np.int8]:
    first = start // _BITS_PER_WORD
    last = -(-stop // _BITS_PER_WORD)
    words = stream.words(probe, first, last).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    offset = start - first * _BITS_PER_WORD
    return 1 - 2 * bits[offset : offset + stop - start].view(np.int8)


def _uniform(stream: Stream, probe: int, start: int, stop: int, part: int) -> NDArray[np.float64]:
    # The upper 52 bits, centred, so that neither 0 nor 1 is ever drawn; with 53 bits, the half would
    # be rounded away, and the largest word would give 1.
    words = stream.words(probe, start, stop, part)
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
