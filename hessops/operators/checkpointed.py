"""An operator that keeps its products in a folder and, after a kill, reads them back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from hessops.arrays import Array, HostArray, dtype_name, is_floating, namespace
from hessops.checkpoint.entry import Entry, as_stored
from hessops.checkpoint.ranks import Ranks
from hessops.checkpoint.record import Record
from hessops.checkpoint.sketch import Sketcher
from hessops.counted import counted
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.together import summed_together, tried
from hessops.wrap import aslinearoperator

__all__ = ["Checkpointed", "checkpointed"]

_PRODUCT = "product"
_ADJOINT_PRODUCT = "adjoint product"


def checkpointed(A: Any, folder: str | os.PathLike[str], *, restart: bool = False) -> Checkpointed:
    """Return an operator that keeps its products in a folder, so that a run can be killed and go on.

    What hessops computes is a function of seed, settings and products. So a program that is killed,
    and run again as it is, reads back in order the products that were made, makes the others, and
    ends with the same bits: values, errors, history, status and `num_products`, whatever it calls on
    the way. Only `seconds` are those of the last process. Give every verb a seed (`rng`): without one,
    each process draws another, which is refused.

    A product is written in whole or not at all, and is on the disk before the run goes on. When it is
    read back, the block that is asked for is held against norms and inner products of the one that was
    multiplied; another run, or another operator, is refused. A run that only takes more steps than
    what was recorded goes on from there.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        The operator, of any array library.
    folder : str or Path
        Where to keep the products: a new or empty folder, or one with the record of this run.
    restart : bool
        Throw away what was recorded, and begin anew.

    Returns
    -------
    Checkpointed
        The same operator; its `repr` says how many products were read back. To go on in the same
        process, after an interrupt in a notebook, make it again: that goes back to the first product.

    Raises
    ------
    CheckpointError
        If the record is of an operator of another shape, dtype or structure, its vectors were split
        over ranks otherwise, it is damaged, in use by another process, or `folder` holds other files.
    OSError
        If the folder cannot be made, read or written.

    Notes
    -----
    A product raises `CheckpointError`, too, where another block than recorded is asked for, the
    operator is another one, or the file is damaged; and `OSError` where it cannot be written.

    Costs one product more in every process, which `num_products` does not count: with a fixed vector,
    to know the operator again; and one more where the adjoint is used, or the terms of a sum. Takes the
    space of every product made on the disk, n numbers each, and three vectors of memory. Worth it
    where a product takes longer than writing n numbers: for the Hessian of a network over its data,
    not for a sparse matrix.

    Vectors that are split over ranks are kept by each rank in files of its own, in one folder. A block
    that differs by rounding alone, as with another number of threads, is taken for the same.

    Examples
    --------
    >>> import numpy as np, tempfile, hessops
    >>> A = np.diag(np.arange(1.0, 101.0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = hessops.eigsh(hessops.checkpointed(A, folder), 1, rng=0)
    ...     again = hessops.checkpointed(A, folder)
    ...     same = hessops.eigsh(again, 1, rng=0).eigenvalues == first.eigenvalues
    >>> bool(same[0]), again.num_replayed == first.num_products, again.num_made
    (True, True, 0)
    """
    return Checkpointed(aslinearoperator(A), folder, restart=restart)


class Checkpointed(LinearOperator):
    """An operator that keeps its products in a folder; made by `checkpointed`.

    Parameters
    ----------
    operator : LinearOperator
        Whose products they are.
    folder : str or Path
        Where to keep them.
    restart : bool
        Throw away what was recorded.
    """

    def __init__(
        self, operator: LinearOperator, folder: str | os.PathLike[str], *, restart: bool = False
    ) -> None:
        super().__init__(operator.domain, operator.codomain, structure=operator.structure)
        self.operator = operator
        self.num_samples = operator.num_samples
        self._product_error = operator.product_error
        self.folder = Path(folder)
        ranks = Ranks(operator.domain, operator.codomain)
        self._record = Record(self.folder, _description(operator, ranks), ranks, restart=restart)
        self._sketchers: dict[tuple[bool, str], Sketcher] = {}
        self._known: set[str] = set()

    @property
    def num_recorded(self) -> int:
        """Return how many products with blocks the folder holds."""
        return self._record.num_recorded

    @property
    def num_replayed(self) -> int:
        """Return how many of them this process has read back."""
        return self._record.num_replayed

    @property
    def num_made(self) -> int:
        """Return how many of them this process has made."""
        return self._record.num_made

    @property
    def nbytes(self) -> int:
        """Return the size of the record in bytes; with split vectors, of this rank's part."""
        return self._record.nbytes

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the terms of the operator, whose products are kept in the same record.

        Of terms that are dealt out to ranks every product is made known to all ranks, one term after
        the other, so that a run can go on with another number of ranks: they do not multiply side by
        side, as they do with the whole operator.
        """
        for index, term in enumerate(self.operator.terms()):
            yield self if term is self.operator else _CheckpointedTerm(self, index, term)

    def power_traces(self) -> tuple[float, ...]:
        """Return what the operator knows of its own powers, so that estimates are those without."""
        return self.operator.power_traces()

    def _apply(self, X: Array) -> Array:
        return self._product(_PRODUCT, self.operator, X)

    def _apply_adjoint(self, X: Array) -> Array:
        return self._product(_ADJOINT_PRODUCT, self.operator, X, adjoint=True)

    def _product(
        self, call: str, operator: LinearOperator, X: Array, *, adjoint: bool = False
    ) -> Array:
        """Return the next product: the one that was recorded, or else a new one."""
        multiply = operator.apply_adjoint if adjoint else operator.apply
        spaces = operator.domain, operator.codomain
        source, target = (self._sketcher(space, space is spaces[1]) for space in spaces)
        if adjoint:
            source, target = target, source
        sketch = source.sketch(X)
        if self._record.is_at_the_end():
            return self._made(call, multiply, X, sketch, source, target)
        entry = self._record.replay(call, sketch, source)
        if entry.fingerprint is not None and call not in self._known:
            found = target.sketch(multiply(source.probe()))
            self._record.require_same_operator(call, found, entry.fingerprint, target)
        self._known.add(call)
        return entry.restored(target.space)

    def _made(
        self,
        call: str,
        multiply: Callable[[Array], Array],
        X: Array,
        sketch: HostArray,
        source: Sketcher,
        target: Sketcher,
    ) -> Array:
        fingerprint = None
        if call not in self._known:
            fingerprint = target.sketch(multiply(source.probe()))
        product = multiply(X)
        self._require_storable(product)
        host, order = as_stored(product)
        entry = Entry(
            call=call, sketch=sketch, product=host, order=order or "rows", fingerprint=fingerprint
        )
        self._record.append(entry)
        self._known.add(call)
        # What cannot be laid out in memory as it was is laid out alike now and after a kill.
        return product if order is not None else entry.restored(target.space)

    def _sketcher(self, space: Space, of_codomain: bool) -> Sketcher:
        """Return the sketcher of a space; terms make theirs anew, with the rows of the whole."""
        key = (of_codomain, dtype_name(space.dtype))
        if key not in self._sketchers:
            self._sketchers[key] = Sketcher(space)
        return self._sketchers[key]

    def _require_storable(self, product: Array) -> None:
        xp = namespace(product)
        name = dtype_name(product.dtype)
        if name not in {"float32", "float64", "complex64", "complex128"}:
            kind = "half precision" if is_floating(xp, product.dtype) else "no floating type"
            raise TypeError(
                f"a product of {self.operator} is {name}, which is {kind} and cannot be recorded: "
                f"convert it to {dtype_name(self.dtype)} in the operator"
            )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise TypeError(
            f"{self} cannot be copied or pickled, as two would write into one folder: copy its "
            "`operator` and give the copy a folder of its own"
        )

    def _describe(self) -> str:
        return (
            f"{type(self.operator).__name__} in {self.folder}: {counted(self.num_recorded, 'product')} "
            f"recorded, {self.num_replayed} read back, {self.num_made} new"
        )


class _CheckpointedTerm(LinearOperator):
    """One term of a checkpointed operator, with the record of the whole."""

    def __init__(self, whole: Checkpointed, index: int, term: LinearOperator) -> None:
        super().__init__(term.domain, term.codomain, structure=term.structure)
        self.whole = whole
        self.index = index
        self.num_samples = term.num_samples
        self._product_error = term.product_error
        self.operator = term if term.held_by is None else _MadeKnown(term)

    def _apply(self, X: Array) -> Array:
        return self.whole._product(f"{_PRODUCT} of term {self.index}", self.operator, X)

    def _apply_adjoint(self, X: Array) -> Array:
        call = f"{_ADJOINT_PRODUCT} of term {self.index}"
        return self.whole._product(call, self.operator, X, adjoint=True)

    def _describe(self) -> str:
        return f"term {self.index}"


class _MadeKnown(LinearOperator):
    """A term that one rank holds, multiplied with by all of them together."""

    def __init__(self, term: LinearOperator) -> None:
        super().__init__(term.domain, term.codomain, structure=term.structure)
        self.term = term

    def _apply(self, X: Array) -> Array:
        return self._by_holder(self.term.apply, X, self.codomain)

    def _apply_adjoint(self, X: Array) -> Array:
        return self._by_holder(self.term.apply_adjoint, X, self.domain)

    def _by_holder(self, multiply: Callable[[Array], Array], X: Array, space: Space) -> Array:
        product, error = space.zeros(X.shape[1]), None
        if self.term.held_by == space.comm.rank:
            made, error = tried(lambda: multiply(X))
            product = product if made is None else made
        return summed_together(space.comm, product, error, X)

    def _describe(self) -> str:
        return type(self.term).__name__


def _description(operator: LinearOperator, ranks: Ranks) -> dict[str, Any]:
    """Return what has to be the same after a kill, in words that JSON can hold."""
    return {
        "operator": repr(operator),
        "shape": list(operator.shape),
        "dtype": dtype_name(operator.dtype),
        "structure": str(operator.structure),
        "rows": ranks.rows,
    }
