"""How far what is computed on a sample of data lies from the same on the whole of it.

The data at hand is n samples, drawn at random from N (or from a distribution, N = ∞), and cut into m
micro-batches at random. An operator that is their sum, A = Σ_b A_b, then estimates that of the whole,
and the scatter of q_b, what micro-batch b with its share w_b of the samples adds to a quantity
q = Σ_b q_b that is linear in A, says how well:

    se(q)² = (1 - n / N) / (m - 1) Σ_b (q_b - w_b q)² / w_b .
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessops import aslinearoperator
from hessops.arrays import HostArray
from hessops.operator import LinearOperator
from hessops.statistics import length
from hessops_torch.data.batch import length_of
from hessops_torch.operators.data_sum import DataSum

__all__ = ["Sample", "require_two_probes", "sample_of"]


@dataclass(frozen=True)
class Sample:
    """An operator as a sum over micro-batches that are samples of something larger.

    Parameters
    ----------
    operator : LinearOperator
        The sum.
    weights : numpy.ndarray, shape (m,)
        The micro-batches' shares of the samples, which add up to 1.
    places : tuple of int
        Which of `operator.terms()` they are; the others, such as a weight decay, never change.
    num_samples : float
        Samples in all.
    population : float
        Samples of the whole, or infinity.
    """

    operator: LinearOperator
    weights: HostArray
    places: tuple[int, ...]
    num_samples: float
    population: float

    @property
    def num_batches(self) -> int:
        """Return the number of micro-batches."""
        return len(self.places)

    @property
    def correction(self) -> float:
        """Return 1 - n / N, by which a finite population makes variances smaller."""
        return 1 - self.num_samples / self.population

    def terms(self) -> Iterator[LinearOperator]:
        """Yield the micro-batches' shares of the operator."""
        places = set(self.places)
        return (term for i, term in enumerate(self.operator.terms()) if i in places)

    def variance(self, shares: HostArray) -> HostArray:
        """Return the variance of sums of shares, of an infinite population.

        Parameters
        ----------
        shares : numpy.ndarray, shape (m, ...)
            What each micro-batch adds.

        Returns
        -------
        numpy.ndarray
            With ``m - 1`` degrees of freedom where shares are normal.
        """
        weights = self.weights.reshape(-1, *[1] * (shares.ndim - 1))
        deviations = (shares - weights * shares.sum(axis=0)) / np.sqrt(weights)
        return np.asarray(length(deviations) ** 2 / (self.num_batches - 1))


def sample_of(operator: Any, population: float | None) -> Sample:
    """Return an operator as a sample of micro-batches.

    Parameters
    ----------
    operator : LinearOperator or anything `hessops.aslinearoperator` takes
        A sum over micro-batches.
    population : float or None
        Samples of the whole, no less than are at hand; a distribution if None.

    Returns
    -------
    Sample
        The operator with the shares of its terms.

    Raises
    ------
    ValueError
        If there are fewer than two micro-batches, or the population is smaller than the sample.
    """
    A = aslinearoperator(operator)
    counts = [float(term.num_samples) for term in A.terms()]
    places = tuple(i for i, count in enumerate(counts) if count > 0)
    if len(places) < 2:
        raise ValueError(
            f"the operator has {len(places)} micro-batch with data: the scatter between micro-batches "
            "takes two at least, and tens to be known well; pass micro_batch_size"
        )
    found = np.array([counts[i] for i in places])
    num_samples = _samples_in(A) or float(found.sum())
    whole = math.inf if population is None else float(population)
    if not whole >= num_samples:
        raise ValueError(
            f"population={population} is less than the {num_samples:g} samples at hand: give the "
            "number of samples of the whole, or None for a distribution"
        )
    return Sample(A, found / found.sum(), places, num_samples, whole)


def _samples_in(operator: LinearOperator) -> float | None:
    """Return the samples of a data set; what a loss counts may be entries or tokens."""
    if not isinstance(operator, DataSum):
        return None
    return float(sum(map(length_of, operator.objective.batches)))


def require_two_probes(num_probes: int) -> None:
    """Raise if there are too few probes to tell their noise from the scatter of samples."""
    if num_probes < 2:
        raise ValueError(
            f"num_probes={num_probes}: their error takes two probes at least to be seen"
        )
