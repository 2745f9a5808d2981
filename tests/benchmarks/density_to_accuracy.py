"""How many steps the eigenvalue density of a trained ResNet20's Hessian takes.

    python tests/benchmarks/density_to_accuracy.py --images 256 --steps 600

Nearly all eigenvalues are next to zero, and what is wanted is a Wasserstein distance of a few per
cent of their mean modulus. One probe tells it, as there are hundreds of thousands of eigenvalues,
once the few large ones are taken out, whose shares in a probe are its noise. The rule of all steps is
what those of fewer steps are held against, as steps and with every node as wide as
`hessops.density.node_widths` says. Counts do not depend on what else the machine does; a run of hours
that is killed goes on where it was with `--folder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.linalg import eigh_tridiagonal
from time_to_accuracy import load

import hessops
import hessops_torch
from hessops.algorithms.krylov.lanczos import lanczos_steps
from hessops.density.node_widths import node_widths, shares_below
from hessops.random import Stream

_LOOKS = (16, 32, 64, 128, 200, 256, 300, 350, 400, 450, 500, 550)


def recurrence(A: Any, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the recurrence of one probe, orthogonalised against all before."""
    start = A.domain.probes(Stream(seed), range(1), "rademacher")
    for state in lanczos_steps(A, start, reorthogonalize="full"):
        if state.step % 50 == 0:
            typer.echo(f"step {state.step}", err=True)
        if state.step == steps:
            return state.alphas[:, 0], state.betas[:, 0]
    raise RuntimeError(f"the recurrence ended before {steps} steps")


class Cdf:
    """The distribution that a probe shows after some steps, and the largest eigenvalues."""

    def __init__(
        self, alphas: np.ndarray, betas: np.ndarray, top: np.ndarray, dim: int, *, wide: bool
    ) -> None:
        nodes, vectors = eigh_tridiagonal(alphas, betas[:-1])
        errors = betas[-1] * np.abs(vectors[-1])
        shares = vectors[0] ** 2
        widths = node_widths(nodes[None], shares[None], errors[None])[0] if wide else 0 * nodes
        # Rules of the projected operator see zeros in place of the pairs that were taken out.
        self.nodes = np.concatenate([nodes, top])
        self.shares = np.concatenate([shares * (1 - len(top) / dim), np.full(len(top), 1 / dim)])
        self.widths = np.concatenate([widths, 0 * top])

    def __call__(self, grid: np.ndarray) -> np.ndarray:
        """Return the share of eigenvalues up to every point, node by node: the grid is long."""
        total = np.zeros_like(grid)
        for i, share in enumerate(self.shares):
            one = slice(i, i + 1)
            total += share * shares_below(grid, self.nodes[one], self.widths[one], 0.0)[:, 0]
        return total


def main(
    images: Annotated[int, typer.Option(min=1)] = 256,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    pairs: Annotated[int, typer.Option(help="Eigenpairs taken out.")] = 10,
    steps: Annotated[int, typer.Option(help="Of the reference.")] = 600,
    seed: Annotated[int, typer.Option()] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Keep products there, to go on later.")
    ] = None,
) -> None:
    """Print Wasserstein distances by the number of steps."""
    task = load(images, batch)
    H: Any = hessops_torch.hessian(task.model, task.loss, task.loader, mode="eval")
    if folder is not None:
        H = hessops.checkpointed(H, folder)
    dim = H.shape[0]
    top = hessops.eigsh(H, pairs, which="LM", tol=1e-4, rng=seed)
    alphas, betas = recurrence(hessops.Projected(H, top.eigenvectors), steps, seed + 1)

    def after(count: int, *, wide: bool) -> Cdf:
        return Cdf(alphas[:count], betas[:count], top.eigenvalues, dim, wide=wide)

    span = 1.1 * float(np.max(np.abs(top.eigenvalues)))
    near = np.geomspace(1e-7, span, 50_000)
    grid = np.concatenate([-near[::-1], near])
    # Two rules in a row: one has a node at zero where the other has two about it.
    truth = (after(steps, wide=True)(grid) + after(steps - 1, wide=True)(grid)) / 2
    size = float(np.trapezoid(np.where(grid < 0, truth, 1 - truth), grid))

    def distance(values: np.ndarray) -> str:
        return f"{np.trapezoid(np.abs(values - truth), grid) / size:8.1%}"

    short = 9 * steps // 10
    earlier = (after(short, wide=True)(grid) + after(short - 1, wide=True)(grid)) / 2
    nodes, vectors = eigh_tridiagonal(alphas, betas[:-1])
    rest = dim * float(np.sum(vectors[0] ** 2 * nodes**2))
    whole = rest + float(np.sum(top.eigenvalues**2))
    noise = [np.sqrt(2 * squares) / (size * dim) for squares in (whole, rest)]
    typer.echo(
        f"{images} images; sum of moduli {size * dim:.4g}; a tenth fewer steps of the reference are "
        f"{distance(earlier).strip()} off it; noise of one probe's trace, of that sum: {noise[0]:.1%}, "
        f"without {pairs} eigenpairs {noise[1]:.1%}"
    )
    typer.echo("steps   as steps  widened  ")
    for count in (look for look in _LOOKS if look < steps):
        found = [distance(after(count, wide=wide)(grid)) for wide in (False, True)]
        typer.echo(f"{count:5d}  {'  '.join(found)}")


if __name__ == "__main__":
    typer.run(main)
