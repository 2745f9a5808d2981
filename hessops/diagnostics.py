"""Does an operator keep its promises? `check_operator` asks it, on random blocks.

Linear, adjoint, self-adjoint, positive semidefinite, deterministic, finite, honest of dtype and shape,
leaving its input alone and its earlier products, too: each check is a sentence with figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessops.agreement import agreed_seed, together_to_host
from hessops.arrays import Array, HostArray, dtype_name, eps, namespace, to_numpy
from hessops.operator import LinearOperator
from hessops.random import Purpose, RandomState, Stream
from hessops.space import Space
from hessops.wrap import aslinearoperator

__all__ = ["Check", "CheckReport", "check_operator"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One promise, held against random blocks.

    Parameters
    ----------
    name : str
        Such as 'linear'.
    passed : bool
        Whether `deviation` is within `tolerance`.
    deviation : float
        Relative size of the violation; 0 or 1 for yes-or-no promises.
    tolerance : float
        Largest deviation that counts as rounding.
    sentence : str
        What was found, with figures.
    """

    name: str
    passed: bool
    deviation: float
    tolerance: float
    sentence: str


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All checks of one operator.

    Parameters
    ----------
    operator : str
        What was checked.
    checks : tuple of Check
        In the order they were made.
    num_products : int
        Columns multiplied.
    """

    operator: str
    checks: tuple[Check, ...]
    num_products: int

    @property
    def passed(self) -> bool:
        """Tell whether every promise was kept."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[str]:
        """Return a sentence for every promise that was not kept."""
        return [check.sentence for check in self.checks if not check.passed]

    def raise_if_failed(self) -> None:
        """Raise the failures.

        Raises
        ------
        ValueError
            If a promise was not kept.
        """
        if not self.passed:
            raise ValueError("; ".join(self.failures))

    def __str__(self) -> str:
        rows = [
            f"  {'ok  ' if check.passed else 'FAIL'} {check.name}: {check.sentence}"
            for check in self.checks
        ]
        return "\n".join([f"{self.operator} ({self.num_products} products)", *rows])


def check_operator(
    A: Any, *, num_vectors: int = 4, tol: float | None = None, rng: RandomState = None
) -> CheckReport:
    """Check on random blocks that an operator is what it claims to be.

    Costs about ``6 * num_vectors`` products.

    Parameters
    ----------
    A : LinearOperator or anything `aslinearoperator` takes
        Square or rectangular.
    num_vectors : int
        Columns per block.
    tol : float, optional
        Relative deviation that counts as rounding; where not given, ``eps**0.75`` of the operator's
        precision (1.8e-12 in float64, 6.4e-6 in float32), and not below ten times its `product_error`.
    rng : int, numpy.random.Generator or None
        Where the blocks come from.

    Returns
    -------
    CheckReport
        Whose failures are sentences with figures.

    Examples
    --------
    >>> import numpy as np
    >>> from hessops import aslinearoperator, check_operator
    >>> B = np.triu(np.ones((3, 3)))
    >>> wrong = aslinearoperator(lambda X: B @ X, shape=3, self_adjoint=True)
    >>> [check.name for check in check_operator(wrong, rng=0).checks if not check.passed]
    ['self-adjoint']
    """
    operator = aslinearoperator(A)
    integer = isinstance(num_vectors, int | np.integer) and not isinstance(num_vectors, bool)
    if not integer or num_vectors < 1:
        raise ValueError(f"num_vectors={num_vectors!r} must be a positive integer")
    if tol is not None and not isinstance(tol, int | float | np.integer | np.floating):
        raise TypeError(f"tol={tol!r} must be a real number, not {type(tol).__name__}")
    if tol is not None and not tol >= 0:
        raise ValueError(f"tol={tol} must not be negative")
    tolerance = _rounding(operator) if tol is None else tol
    stream = Stream(agreed_seed(operator.domain, rng), Purpose.CHECK_DOMAIN)
    try:
        checker = _Checker(operator, num_vectors, tolerance, stream)
    except TypeError as error:
        # What operators of functions raise where a function returns something else.
        refused = _verdict("product", 1.0, 0.0, f"a product raises TypeError: {error}")
        return CheckReport(operator=repr(operator), checks=(refused,), num_products=num_vectors)
    checks = checker.basics()
    # Inner products of NaN say nothing more.
    if all(check.passed for check in checks):
        checks += checker.laws()
    return CheckReport(
        operator=repr(operator), checks=tuple(checks), num_products=checker.num_products
    )


class _Checker:
    def __init__(
        self, operator: LinearOperator, count: int, tolerance: float, stream: Stream
    ) -> None:
        self.operator = operator
        self.tolerance = tolerance
        self.num_products = 0
        self.count = count
        self.X = operator.domain.probes(stream, range(count), "normal")
        self.Z = operator.domain.probes(stream, range(count, 2 * count), "normal")
        self.Y = operator.codomain.probes(
            stream.for_purpose(Purpose.CHECK_CODOMAIN), range(count), "normal"
        )
        # By the hook, as `apply` would raise where the shape is wrong.
        self.AX = _copy(operator._apply(_copy(self.X)))
        self.num_products += count

    def multiply(self, X: Array) -> Array:
        self.num_products += X.shape[1]
        return self.operator.apply(X)

    def basics(self) -> list[Check]:
        shape = self.honest_shape()
        return [shape, self.honest_dtype(), self.finite()] if shape.passed else [shape]

    def laws(self) -> list[Check]:
        block = _copy(self.X)
        again = self.multiply(block)
        kept = _copy(again)
        AZ = _copy(self.multiply(self.Z))
        checks = [
            self.leaves_its_input(block),
            self.keeps_its_products(again, kept),
            self.deterministic(kept),
            self.linear(AZ),
            self.columnwise(),
        ]
        structure = self.operator.structure
        if structure.self_adjoint:
            checks.append(self.self_adjoint())
        elif (adjoint := self.adjoint()) is not None:
            checks.append(adjoint)
        if structure.positive_semidefinite:
            checks.append(self.positive_semidefinite())
        return checks

    def honest_shape(self) -> Check:
        found, expected = tuple(self.AX.shape), (self.operator.codomain.local_dim, self.count)
        return _verdict(
            "shape",
            0.0 if found == expected else 1.0,
            0.0,
            f"the product with a block of {self.count} columns has shape {found}, declared {expected}",
        )

    def honest_dtype(self) -> Check:
        found, declared = self.AX.dtype, self.operator.codomain.dtype
        same = found == declared and namespace(self.AX) is self.operator.xp
        return _verdict(
            "dtype",
            0.0 if same else 1.0,
            0.0,
            f"products are {dtype_name(found)}, declared {dtype_name(declared)}",
        )

    def finite(self) -> Check:
        xp = self.operator.xp
        marked = xp.astype(~xp.isfinite(self.AX), self.operator.codomain.dtype)
        # Counted on all ranks together, which must come to the same verdict.
        counts = self.operator.codomain.column_norms_squared(marked)
        bad = round(float(np.sum(to_numpy(counts))))
        return _verdict(
            "finite",
            float(bad),
            0.0,
            f"{bad} of {int(np.prod(self.AX.shape))} entries of a product are NaN or infinite",
        )

    def leaves_its_input(self, block: Array) -> Check:
        return self.unchanged(
            "leaves its input",
            self.operator.domain,
            block - self.X,
            self.X,
            "multiplying a block changes the block itself by",
        )

    def keeps_its_products(self, product: Array, kept: Array) -> Check:
        return self.unchanged(
            "returns memory of its own",
            self.operator.codomain,
            product - kept,
            kept,
            "a later product changes the one before by",
        )

    def unchanged(
        self, name: str, space: Space, difference: Array, reference: Array, sentence: str
    ) -> Check:
        size = float(np.linalg.norm(_norms(space, reference)))
        off = float(np.linalg.norm(_norms(space, difference)))
        deviation = off / size if size > 0 else off
        return _verdict(name, deviation, 0.0, f"{sentence} {deviation:.2g}")

    def deterministic(self, again: Array) -> Check:
        deviation = self.relative(again - self.AX, self.AX)
        return _verdict(
            "deterministic",
            deviation,
            self.tolerance,
            f"the same block multiplied twice differs by {deviation:.2g}",
        )

    def linear(self, AZ: Array) -> Check:
        combined = self.multiply(2.5 * self.X - 0.75 * self.Z)
        separate = 2.5 * self.AX - 0.75 * AZ
        deviation = self.relative(combined - separate, self.AX)
        return _verdict(
            "linear",
            deviation,
            self.tolerance,
            f"A(2.5 X - 0.75 Z) and 2.5 A X - 0.75 A Z differ by {deviation:.2g}",
        )

    def columnwise(self) -> Check:
        alone = self.multiply(self.X[:, :1])
        deviation = self.relative(alone - self.AX[:, :1], self.AX)
        return _verdict(
            "block",
            deviation,
            self.tolerance,
            f"a column alone and within a block differ by {deviation:.2g}",
        )

    def self_adjoint(self) -> Check:
        domain = self.operator.domain
        left, right = together_to_host(
            domain, domain.gram(self.Z, self.AX), domain.gram(self.multiply(self.Z), self.X)
        )
        deviation = self.inner_deviation(left, right)
        return _verdict(
            "self-adjoint",
            deviation,
            self.tolerance,
            f"<z, A x> and <A z, x> differ by {deviation:.2g} of |z| |A x|",
        )

    def adjoint(self) -> Check | None:
        try:
            back = self.operator.apply_adjoint(self.Y)
        except NotImplementedError:
            return None
        self.num_products += self.count
        domain, codomain = self.operator.domain, self.operator.codomain
        left, right = together_to_host(
            domain, codomain.gram(self.Y, self.AX), domain.gram(back, self.X)
        )
        deviation = self.inner_deviation(left, right)
        return _verdict(
            "adjoint",
            deviation,
            self.tolerance,
            f"<y, A x> and <A^H y, x> differ by {deviation:.2g} of |y| |A x|",
        )

    def positive_semidefinite(self) -> Check:
        domain, codomain = self.operator.domain, self.operator.codomain
        inner, before, after = together_to_host(
            domain,
            domain.column_inner(self.X, self.AX),
            domain.column_norms_squared(self.X),
            codomain.column_norms_squared(self.AX),
        )
        forms, lengths = np.real(inner), np.sqrt(before) * np.sqrt(after)
        worst = float(
            np.min(np.divide(forms, lengths, out=np.zeros_like(forms), where=lengths > 0))
        )
        return _verdict(
            "positive semidefinite",
            max(0.0, -worst),
            self.tolerance,
            f"the smallest <x, A x> / (|x| |A x|) seen is {worst:.2g}",
        )

    def relative(self, difference: Array, reference: Array) -> float:
        codomain = self.operator.codomain
        squares = map(codomain.column_norms_squared, (reference, difference))
        size, off = (
            float(np.linalg.norm(np.sqrt(part))) for part in together_to_host(codomain, *squares)
        )
        return off / size if size > 0 else (0.0 if off == 0 else math.inf)

    def inner_deviation(self, left: HostArray, right: HostArray) -> float:
        # Rounding in an inner product is relative to the lengths, not to the product.
        size = float(np.max(_norms(self.operator.codomain, self.AX))) * math.sqrt(
            self.operator.shape[0]
        )
        off = float(np.max(np.abs(left - right)))
        return off / size if size > 0 else (0.0 if off == 0 else math.inf)


def _rounding(operator: LinearOperator) -> float:
    """Return the relative deviation that counts as rounding, of products that are added to others."""
    return float(max(eps(operator.xp, operator.dtype) ** 0.75, 10 * operator.product_error))


def _copy(X: Array) -> Array:
    copied: Array = namespace(X).asarray(X, copy=True)
    return copied


def _norms(space: Space, X: Array) -> HostArray:
    return np.sqrt(to_numpy(space.column_norms_squared(X)))


def _verdict(name: str, deviation: float, tolerance: float, sentence: str) -> Check:
    return Check(
        name=name,
        passed=deviation <= tolerance,
        deviation=deviation,
        tolerance=tolerance,
        sentence=sentence,
    )
