"""Train a character transformer, then say how its loss is curved, each number with its error."""

import argparse
import time

import torch
from problem import problem
from torch.nn import functional as F  # noqa: N812

import hessops
from hessops_torch import eigenvalue_sampling_error, hessian, trace_sampling_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a file of text; the example's own files if left out")
    parser.add_argument("--steps", type=int, default=600, help="steps of training")
    parser.add_argument("--windows", type=int, default=256, help="windows of the Hessian")
    parser.add_argument("--probes", type=int, default=8, help="of the trace and of the density")
    parser.add_argument("--picture", help="where to write the density, such as density.png")
    options = parser.parse_args()

    began = time.perf_counter()
    model, loss, batches = problem(
        data=options.data, steps=options.steps, num_windows=options.windows
    )
    with torch.no_grad():
        value = sum(F.cross_entropy(model(x), y).item() * len(x) for x, y in batches)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {options.steps} steps in {time.perf_counter() - began:.0f} s")
    print(f"loss {value / options.windows:.3f} on {options.windows} windows")

    # Small micro-batches, each with probes of its own, and enough of them to see how they scatter.
    H = hessian(model, loss, batches, micro_batch_size=8)
    print(hessops.eigsh(H, 5, which="LA", tol=1e-3, rng=0))
    print(hessops.trace(H, num_probes=options.probes, rng=0))
    density = hessops.spectral_density(H, num_probes=options.probes // 2, num_steps=32, rng=0)
    print(density)
    print("trace and largest eigenvalue, as estimates for the whole text:")
    print(trace_sampling_error(H, num_probes=options.probes, rng=1))
    print(eigenvalue_sampling_error(H, 1, tol=1e-3, rng=1))
    if options.picture:
        axes = density.plot()
        axes.set_title("Hessian of a character transformer")
        axes.figure.savefig(options.picture, dpi=150)


if __name__ == "__main__":
    main()
