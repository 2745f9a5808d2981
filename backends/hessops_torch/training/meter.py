"""What is measured of a network in the middle of its training, without a trace in the training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import hessops
from hessops.algorithms.eigen.eigsh import Which
from hessops.density.spectral_density import SpectralDensity
from hessops.errors import ConvergenceWarning
from hessops.results.eigenpairs import EigenResult
from hessops.results.trace import TraceResult
from hessops_torch.data.free_memory import free_memory
from hessops_torch.data.random_state import generators_preserved
from hessops_torch.losses.loss import Loss
from hessops_torch.objective.objective import Objective
from hessops_torch.operators.hessian import Hessian
from hessops_torch.products.clock import seconds_of, wait_for

__all__ = ["CurvatureMeter"]

# From the last eigenvectors alone, one that has come up since may not be seen: without noise values
# were up to 12 % of the largest off; from 0.03 to 1 products did not change beyond chance.
_NOISE = 0.1
# At loose tolerances the last of the pairs asked for may be passed over. Of 50 records with three
# eigenvalues to 1 % that befell one from random vectors (by 3 %) and none with one pair more (0.1 %).
_GUARDS = 1
_MOST_STEPS = 200
# Of a record's 95 % interval with the help of G. With as little as 8 products the variances are known
# by a few probes: of nine networks 94.6 ± 0.5 % of 2,600 nominal intervals held, but of one of them
# 90 ± 2 %; of intervals that are nominally 97.5 %, 97 % in all and of none less than 94 ± 2 %.
_NOMINAL = 0.975


class CurvatureMeter:
    """Measures one Hessian again and again while its parameters change.

    Making it takes three products, whose time is in `product_seconds`.

    Parameters
    ----------
    model : torch.nn.Module
        The model in training.
    loss : torch.nn.Module or callable
        As `hessian` takes it.
    data : DataLoader, Dataset, list of batches, or one batch as a tuple of tensors
        The same in every pass.
    generator : numpy.random.Generator
        Where start vectors and probes come from.
    weight_decay : float
        Multiple of the identity to add.
    **options : object
        For `Objective`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        generator: np.random.Generator,
        *,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        self._data, self._generator = data, generator
        self._fixed_budget = options.get("memory_budget") is not None
        self.eigenvectors: Tensor | None = None
        with generators_preserved(data):
            self.operator = Hessian(
                Objective(model, loss, data, **options), weight_decay=weight_decay
            )
            self.product_seconds = self._try_products()

    @property
    def dim(self) -> int:
        """Return the number of parameters."""
        return self.operator.domain.dim

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Measure without a trace in the training, and hold no graphs afterwards.

        Yields
        ------
        None
            While `pairs`, `trace` and `density` may be called.
        """
        device = self.operator.domain.device
        with ExitStack() as stack:
            stack.enter_context(generators_preserved(self._data))
            stack.enter_context(torch.autocast(device.type, enabled=False))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", ConvergenceWarning)  # the status says it
            if not self._fixed_budget:
                # The training has taken memory since, or given it back.
                self.operator.graphs.memory_budget = free_memory(device) // 2
            try:
                yield
                wait_for(device)
            finally:
                self.operator.graphs.clear()

    def pairs(self, k: int, which: Which, tol: float) -> EigenResult:
        """Return extreme eigenpairs, found from the last ones, and perhaps one more than asked for."""
        guards = 0 if which == "BE" else _GUARDS
        found = hessops.eigsh(
            self.operator,
            min(k + guards, self.dim),
            which=which,
            tol=tol,
            # The identity of Lanczos gives the same residual norms but for rounding.
            verify=False,
            start=self._start(),
            max_steps=_MOST_STEPS,
            rng=self._generator,
        )
        self.eigenvectors = cast(Tensor, found.eigenvectors)
        return found

    def trace(self, num_probes: int, pairs: EigenResult) -> TraceResult:
        """Return the trace for the price of so many products, with the help of G where there is one.

        The interval is to hold in 95 % of records. Plain probes see what the eigenpairs leave, unless
        the products with these, which the traces of sections need, would take more than half of the
        budget.
        """
        estimator = self.operator.trace_estimator(num_probes)
        if estimator is not None:
            # It keeps graphs of its own.
            self.operator.graphs.clear()
            return estimator(max_products=num_probes, confidence=_NOMINAL, rng=self._generator)
        fits = 2 * len(pairs.eigenvalues) <= num_probes
        return hessops.trace(
            self.operator,
            num_probes=num_probes,
            deflate=pairs if fits else None,
            rng=self._generator,
        )

    def density(self, **options: Any) -> SpectralDensity:
        """Return the spectral density."""
        return hessops.spectral_density(self.operator, **{"rng": self._generator, **options})

    def _start(self) -> Tensor | None:
        """Return the sum of the last eigenvectors and a random vector of a tenth of its norm.

        One vector, not a block: a block of k takes k products a step and gains little by step, so that
        it took 1.3 to 1.7 times as many products as the sum, and at times more than a random vector.
        """
        if self.eigenvectors is None:
            return None
        domain, count = self.operator.domain, self.eigenvectors.shape[1]
        noise = self._generator.standard_normal(domain.dim)
        noise *= _NOISE * math.sqrt(count / domain.dim)
        total = self.eigenvectors.sum(dim=1)
        return total + torch.from_numpy(noise).to(domain.device, domain.dtype)

    def _try_products(self) -> float:
        """Return what a product of a record takes on average, in seconds."""
        vector = self.operator.domain.zeros(1)
        vector += 1 / math.sqrt(self.dim)

        def twice() -> None:
            for _ in range(2):
                self.operator.apply(vector)

        # The first of all loads kernels, and is looked at for symmetry.
        self.operator.apply(vector)
        self.operator.graphs.clear()
        seconds = seconds_of(twice, self.operator.domain.device)
        self.operator.graphs.clear()
        return seconds / 2
