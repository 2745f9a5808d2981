"""Nominal 95 % intervals of layers, over 500 fixed seeds each."""

import numpy as np
import pytest

pytest.importorskip("torch")

import problems
import torch
from torch_problems import images, language, regression

from hessops import LinearOperator
from hessops.structure import SELF_ADJOINT
from hessops_torch import hessian, layer_curvature

SEEDS = 500
NUM_PROBES = 16


class Stored(LinearOperator):
    """A sum over micro-batches with the matrix of each of them: the same operator, faster."""

    def __init__(self, operator, matrices):
        super().__init__(operator.domain, structure=SELF_ADJOINT)
        self.matrices = matrices

    def _apply(self, X):
        return sum(matrix @ X for matrix in self.matrices)

    def terms(self):
        if len(self.matrices) == 1:
            yield self
            return
        for matrix in self.matrices:
            yield Stored(self, [matrix])


PROBLEMS = {
    "regression": lambda: regression("cpu", (8, 8, 8, 5)),
    "images": lambda: images("cpu", (6, 5)),
    "language": lambda: language("cpu", (3, 3, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("name", PROBLEMS)
def test_intervals_of_layers_hold_as_often_as_they_say(name, stratify):
    """Traces and shares 93 to 97.5 %; root mean squares no less often than is documented."""
    whole = hessian(*PROBLEMS[name]().arguments)
    matrices = [term.to_dense() for term in whole.terms()]
    operator, diagonal = Stored(whole, matrices), torch.diagonal(sum(matrices)).numpy()
    held = {}
    for seed in range(SEEDS):
        found = layer_curvature(
            operator, num_probes=NUM_PROBES, block_size=NUM_PROBES, stratify=stratify, rng=seed
        )
        for block in found.blocks:
            entries = diagonal[operator.domain.section(block)]
            for what, exact, (low, high) in (
                ("trace", entries.sum(), found.traces[block].interval),
                ("share", entries.sum() / diagonal.sum(), found.shares[block][1]),
                ("rms", np.sqrt(np.mean(entries**2)), found.rms_diagonals[block][1]),
            ):
                if np.isfinite(high):
                    hit = low - 1e-12 <= exact <= high + 1e-12
                    held.setdefault((what, block), []).append(hit)
    rates = {key: (np.mean(hits), len(hits)) for key, hits in held.items()}
    for (what, block), (rate, count) in rates.items():
        # Of all those of traces and shares together one fails by bad luck in 2 %.
        low, high = problems.coverage_band(0.95, count)
        if what == "rms":
            low, high = problems.coverage_band(0.89, count)[0], 1.0
        assert low <= rate <= high, (what, block, rates)
    for what in ("trace", "share"):
        mean = np.mean([rate for (one, _), (rate, _) in rates.items() if one == what])
        assert problems.COVERED[0] <= mean <= problems.COVERED[1], (what, rates)
