"""The host's random words in integer arithmetic that every array library and device has.

Philox 4x64-10 (Salmon, Moraes, Dror & Shaw 2011) turns a counter of four 64-bit words and a key of two
into four random words by ten rounds of multiplications. Each depends on counter and key alone, so an
array of counters gives an array of words, all of them at once.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from hessops.arrays import Array, device, namespace
from hessops.random import Stream

__all__ = ["philox", "words"]

_ROUNDS = 10
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_HALF = 2**32 - 1

# Integer arrays, of whose operations `Array`, which is about vectors, knows nothing.
Words: TypeAlias = Any


def philox(
    counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]
) -> tuple[Words, Words, Words, Words]:
    """Return the four random words of each counter and key.

    Words are int64 arrays that stand for their 64 bits, as not every library multiplies unsigned
    integers: sums and products of int64 wrap around, which leaves the right bits.

    Parameters
    ----------
    counter : tuple of four arrays
        Of int64, of shapes that broadcast.
    key : tuple of two arrays
        Likewise.

    Returns
    -------
    tuple of four arrays
        Of int64 and the common shape.
    """
    a, b, c, d = counter
    left, right = key
    for _ in range(_ROUNDS):
        high_a, low_a = _multiply(a, _MULTIPLIERS[0])
        high_c, low_c = _multiply(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ left, low_c, high_a ^ d ^ right, low_a
        left, right = left + _signed(_KEY_STEPS[0]), right + _signed(_KEY_STEPS[1])
    return a, b, c, d


def words(
    like: Array, stream: Stream, probes: range, start: int, stop: int, part: int = 0
) -> Words:
    """Return the words `start` to `stop` of several probes, bit by bit those of `Stream.words`.

    Parameters
    ----------
    like : array
        Of the library and on the device that draws.
    stream : Stream
        Where the randomness comes from.
    probes : range
        Indices of the probes.
    start, stop : int
        The words wanted of each.
    part : int
        Which of several independent sequences of a probe.

    Returns
    -------
    array, shape (stop - start, len(probes))
        Of int64, which stand for their 64 bits.
    """
    xp, place = namespace(like), device(like)
    first, last = start // 4, -(-stop // 4)
    # NumPy's generator counts one on before it draws.
    blocks = xp.arange(first + 1, last + 1, dtype=xp.int64, device=place)[:, None]
    columns = xp.arange(probes.start, probes.stop, probes.step, dtype=xp.int64, device=place)
    rest = [xp.zeros_like(blocks) + _signed(w) for w in (part, stream.term, stream.purpose)]
    key = xp.zeros_like(blocks) + _signed(stream.seed), columns[None, :]
    drawn = xp.stack(philox((blocks, *rest), key), axis=1)
    flat = xp.reshape(drawn, (4 * (last - first), len(probes)))
    return flat[start - 4 * first : stop - 4 * first, :]


def _multiply(x: Words, constant: int) -> tuple[Words, Words]:
    """Return the upper and the lower word of the 128-bit products with a constant.

    The upper word is put together from products of 32-bit halves, as in long multiplication.
    """
    high, low = divmod(constant, 2**32)
    x_high, x_low = _upper(x), x & _HALF
    first = x_high * low + _upper(x_low * low)
    second = x_low * high + (first & _HALF)
    return x_high * high + _upper(first) + _upper(second), x * _signed(constant)


def _upper(x: Words) -> Words:
    # The shift repeats the sign bit, which the mask takes away.
    return (x >> 32) & _HALF


def _signed(word: int) -> int:
    """Return the int64 of the same 64 bits."""
    return int(word) - 2**64 if int(word) >= 2**63 else int(word)
