"""What a plan says of a run: bytes, gradient equivalents, seconds, and the options for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hessops_torch.planning.work import Work

__all__ = ["Plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run costs, and the options that it costs that with.

    Parameters
    ----------
    work : Work
        The run, with the block size that was chosen where it was free.
    micro_batch_size : int or None
        Most samples to a micro-batch; None leaves batches whole.
    num_micro_batches : int
        Micro-batches.
    kept_graphs : int
        Micro-batches whose graphs stay between products.
    memory_budget : int
        Bytes for these.
    product : str or None
        How products are computed, as an option says; None where none does.
    memory : dict of str to int
        Bytes of what is held at the peak: data, the copy by which a change of the model is noticed,
        graphs, vectors, and the scratch of a product, or of inner products where that is more.
    memory_limit : int or None
        Bytes that were allowed.
    gradient_equivalents : float
        Work, in gradients of the loss over all the data.
    seconds : tuple of float
        Of the products, by the clock on one micro-batch: the least, the median, and the most.
    fitting_probes : int or None
        Where the run does not fit and all its probes go at once, as for a density: how many would
        fit, 0 if none; None otherwise.
    least_gradients : float or None
        Where a tolerance may end the run early: what it costs at the least, up to the first look at its
        error. All else is then what it costs at most. None where there is no tolerance.
    """

    work: Work
    micro_batch_size: int | None
    num_micro_batches: int
    kept_graphs: int
    memory_budget: int
    product: str | None
    memory: dict[str, int]
    memory_limit: int | None
    gradient_equivalents: float
    seconds: tuple[float, float, float]
    fitting_probes: int | None = None
    least_gradients: float | None = None

    @property
    def block_size(self) -> int:
        """Return the vectors to a product, which goes to the verb: ``trace(H, block_size=...)``."""
        return self.work.block_size

    @property
    def peak_bytes(self) -> int:
        """Return the most bytes that are held at a time, without model and gradients."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Tell whether the peak is within the limit."""
        return self.memory_limit is None or self.peak_bytes <= self.memory_limit

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of `hessian`, or what made the operator, that this is the plan for."""
        options: dict[str, Any] = {
            "micro_batch_size": self.micro_batch_size,
            "memory_budget": self.memory_budget,
        }
        return options if self.product is None else options | {"product": self.product}

    def __str__(self) -> str:
        work, least, median, most = self.work, *self.seconds
        per_product = self.gradient_equivalents / work.num_products
        size = "whole" if self.micro_batch_size is None else f"of up to {self.micro_batch_size}"
        parts = ", ".join(f"{name} {_in_bytes(size)}" for name, size in self.memory.items())
        batches = f"{self.num_micro_batches} micro-batches, {size}; {self.kept_graphs} graphs kept"
        way = "" if self.product is None else f"; product {self.product}"
        chosen = "" if work.of_block_size is None else f" (block_size={work.block_size})"
        at_most = "" if self.least_gradients is None else "at most "
        lines = [
            f"{work.verb}: {work.num_products} products, {work.block_size} at a time{chosen}",
            f"  batches  {batches}{way}",
            f"  memory   {_in_bytes(self.peak_bytes)}: {parts}",
            f"  work     {self._gradients()}, {per_product:.3g} a product",
            f"  time     {at_most}{median:.2g} s ({least:.2g} to {most:.2g} s) for the products",
        ]
        if not self.fits:
            lines.append(
                f"  does not fit into {_in_bytes(self.memory_limit or 0)}: fewer vectors (max_basis, "
                "block_size, num_probes) or fewer parameters (params) would take less"
            )
            if self.fitting_probes:
                lines[-1] += f"; num_probes={self.fitting_probes} would fit"
        return "\n".join(lines)

    def _gradients(self) -> str:
        most = f"{self.gradient_equivalents:.4g} gradients"
        if self.least_gradients is None:
            return most
        return (
            f"{self.least_gradients:.4g} gradients, then as many as the tolerance takes, at most "
            f"{most} in all"
        )


def _in_bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError
