"""What verbs return: frozen records of a value, its error, its cost and how it was found.

Errors of different kind stay apart: a statistical `interval` comes from random probes, a
`residual_norm` or `error_bound` from linear algebra. Neither is ever added to the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from hessops.archive import BROKEN, read_archive, write_archive
from hessops.arrays import HostArray, is_array, to_numpy
from hessops.counted import counted
from hessops.errors import ConvergenceError
from hessops.record import History
from hessops.results.numbers import estimate_text
from hessops.statistics import t_quantile

__all__ = ["Estimate", "Interval", "Result", "load"]

_FORMAT = 1
# Of rectangular operators, which may be split in another way.
_OF_CODOMAIN = {"U", "left_vectors"}


class Interval(NamedTuple):
    """A confidence interval."""

    low: Any
    high: Any


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, or one per entry, with its standard error.

    Parameters
    ----------
    value : float or numpy.ndarray
        The mean over probes.
    standard_error : float or numpy.ndarray
        Its standard error, NaN where one probe leaves it unknown.
    freedom : float
        Degrees of freedom of the standard error.
    confidence : float
        Nominal coverage of `interval`.
    """

    value: float | HostArray
    standard_error: float | HostArray
    freedom: float
    confidence: float = 0.95

    @property
    def interval(self) -> Interval:
        """Return the confidence interval by Student's t; infinite after a single probe."""
        if self.freedom <= 0:
            infinite = np.full_like(np.asarray(self.value, dtype=np.float64), np.inf)
            return Interval(-infinite, infinite)
        half = t_quantile(self.confidence, self.freedom) * self.standard_error
        return Interval(self.value - half, self.value + half)

    def __float__(self) -> float:
        return float(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        return np.array(self.value, dtype=dtype, copy=True if copy is None else copy)

    def __str__(self) -> str:
        if np.ndim(self.value):
            return f"{self.value} ± {self.standard_error}"
        return estimate_text(float(self.value), float(self.standard_error))


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What every verb returns, whatever it computes.

    Parameters
    ----------
    num_products : int
        Columns multiplied by the whole operator.
    status : str
        A sentence: how it ended and, if not well, what to try next.
    converged : bool
        Whether the accuracy asked for was reached.
    history : History
        One record per step.
    seed : int or None
        Passing it as `rng` repeats the run; None where nothing is random.
    seconds : float
        Wall time.
    rows_here : tuple of int, or None
        How many rows of long vectors are on this rank, of how many; None where all are.
    """

    num_products: int
    status: str
    converged: bool
    history: History = field(repr=False)
    seed: int | None
    seconds: float
    rows_here: tuple[int, int] | None = field(default=None, metadata={"long": True}, repr=False)

    kinds: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Result.kinds[cls.__name__] = cls

    def raise_if_failed(self) -> Self:
        """Return the result itself, or raise its status if it did not converge.

        Returns
        -------
        Result
            This result.

        Raises
        ------
        ConvergenceError
            If `converged` is False.
        """
        if not self.converged:
            raise ConvergenceError(self.status)
        return self

    def save(self, path: str | Path) -> Path:
        """Write the result to one ``.npz`` file, without pickle.

        Parameters
        ----------
        path : str or Path
            Where to; ``.npz`` is appended where it is missing. A file of that name is replaced, as
            `numpy.savez` does, but not before the new one is complete.

        Returns
        -------
        Path
            The file written.

        Raises
        ------
        ValueError
            If this rank has some rows of the vectors in it, and not all of them.
        """
        target = _with_suffix(path)
        arrays: dict[str, HostArray] = {}
        document = {
            "format": _FORMAT,
            "kind": type(self).__name__,
            "fields": {
                name: _encode(value, name, arrays) for name, value in _whole_fields(self).items()
            },
        }
        write_archive(target, document, arrays)
        return target

    def to_dict(self) -> dict[str, Any]:
        """Return the scalars, sentences and small arrays as plain Python objects, for a report.

        Returns
        -------
        dict
            Without the history and without arrays that have an axis of length n. What is NaN or
            infinite, for which JSON has no word, is None.
        """
        return {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)
            if f.name != "history" and not f.metadata.get("long")
        }

    def _cost(self) -> str:
        return f"{counted(self.num_products, 'product')}, {self.seconds:.3g} s"


def load(path: str | Path) -> Any:
    """Read a result that `Result.save` wrote.

    Parameters
    ----------
    path : str or Path
        What was given to `Result.save`, with or without ``.npz``.

    Returns
    -------
    Result
        What was saved, with all arrays on the host.

    Raises
    ------
    ValueError
        If the file is no result of hessops, or of a later version.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import numpy as np, tempfile, hessops
    >>> result = hessops.trace(np.eye(4), num_probes=2, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = result.save(folder + "/trace")
    ...     hessops.load(folder + "/trace").value
    4.0
    """
    # A file that was renamed is found under the name it has.
    source = Path(path) if Path(path).is_file() else _with_suffix(path)
    with source.open("rb") as file:
        try:
            document, arrays = read_archive(file)
            version, name = int(document["format"]), str(document["kind"])
        except BROKEN as error:
            raise ValueError(f"{path} was not written by hessops: {error}") from error
    if version > _FORMAT:
        raise ValueError(f"{path} was written by a later version of hessops; upgrade to read it")
    if name not in Result.kinds:
        raise ValueError(f"{path} holds a {name!r}: import the package that defines it first")
    kind = Result.kinds[name]
    try:
        return kind(**{name: _decode(value, arrays) for name, value in document["fields"].items()})
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds a {name} that is damaged: {error!r}") from error


def _with_suffix(path: str | Path) -> Path:
    target = Path(path)
    if target.name in {"", ".."}:
        raise ValueError(f"{str(path)!r} names no file: give one in that folder")
    # The name ".npz" has no suffix, by Python's rules.
    if target.name.lower().endswith(".npz"):
        return target
    return target.with_name(target.name + ".npz")


def _whole_fields(record: Result | Estimate) -> dict[str, Any]:
    """Return the fields that a file holds, or raise if some of their rows are on other ranks."""
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    split = values.pop("rows_here", None)
    names = [
        f.name
        for f in fields(record)
        if f.metadata.get("long") and f.name != "rows_here" and is_array(values[f.name])
    ]
    if split is not None and names:
        here, whole = split
        gather = ", ".join(
            f"{name}=hessops.gathered(A.{'codomain' if name in _OF_CODOMAIN else 'domain'}, "
            f"result.{name})"
            for name in names
        )
        raise ValueError(
            f"{' and '.join(names)} of this result: {here} of {whole} rows are on this rank, and the "
            "others would be lost. Gather them on all ranks, and save on one what has them all: "
            f"dataclasses.replace(result, {gather}, rows_here=None)"
        )
    return values


def _encode(value: Any, name: str, arrays: dict[str, HostArray]) -> Any:
    """Return JSON for `value`, putting arrays aside under unique names."""
    if isinstance(value, Estimate | Result):
        parts_of = _whole_fields(value).items()
        inner = {key: _encode(part, f"{name}.{key}", arrays) for key, part in parts_of}
        of_result = {"kind": type(value).__name__, "fields": inner}
        return {"estimate": inner} if isinstance(value, Estimate) else {"result": of_result}
    if isinstance(value, History):
        return {"history": _encode(value.to_dict(), name, arrays)}
    if isinstance(value, tuple):
        parts = [_encode(part, f"{name}.{index}", arrays) for index, part in enumerate(value)]
        return {"interval" if isinstance(value, Interval) else "tuple": parts}
    if isinstance(value, Mapping):
        return {"mapping": {k: _encode(v, f"{name}.{k}", arrays) for k, v in value.items()}}
    if is_array(value) and not isinstance(value, np.generic):
        arrays[name] = to_numpy(value)
        return {"array": name}
    return value.item() if isinstance(value, np.generic) else value


def _decode(value: Any, arrays: dict[str, HostArray]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in {"estimate", "result"}:
        inner = content if kind == "estimate" else content["fields"]
        made_by = Estimate if kind == "estimate" else Result.kinds[content["kind"]]
        return made_by(**{name: _decode(part, arrays) for name, part in inner.items()})
    if kind == "history":
        return History.from_dict(_decode(content, arrays))
    if kind in {"interval", "tuple"}:
        parts = [_decode(part, arrays) for part in content]
        return Interval(*parts) if kind == "interval" else tuple(parts)
    if kind == "mapping":
        return {name: _decode(inner, arrays) for name, inner in content.items()}
    return arrays[content]


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        value = value.to_dict()
    if isinstance(value, Estimate):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Interval):
        return {name: _plain(bound) for name, bound in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if is_array(value):
        return _plain(to_numpy(value).tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
