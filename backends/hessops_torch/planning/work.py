"""How many products a verb takes and how many vectors it holds meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from hessops.algorithms._common import default_block_size, require_count
from hessops.algorithms.eigen._basis_limit import basis_limit
from hessops.space import Space

__all__ = ["Work"]

_ROOM = 16


@dataclass(frozen=True, kw_only=True)
class Work:
    """The products of a run, and the vectors that it holds.

    Parameters
    ----------
    num_products : int
        Products in all.
    block_size : int
        Vectors to a product.
    num_vectors : int
        The most vectors that are held during a product, without those that it returns.
    between : int, optional
        The most that are held between products, with these, while inner products are formed; where
        not given, there are none.
    widest : int, optional
        Most vectors to a product, if some take more than `block_size`.
    per_term : bool
        Whether every term of a finite sum gets vectors of its own.
    verb : str
        What the run is called.

    Raises
    ------
    ValueError
        If a number is none, or not positive.

    Examples
    --------
    >>> from hessops_torch import Work
    >>> Work.density(num_probes=4, num_steps=10).num_products
    40
    """

    num_products: int
    block_size: int = 1
    num_vectors: int = 1
    between: int | None = None
    widest: int | None = None
    per_term: bool = False
    verb: str = "products"

    def __post_init__(self) -> None:
        require_count(
            num_products=self.num_products,
            block_size=self.block_size,
            num_vectors=self.num_vectors,
        )

    @classmethod
    def eigsh(
        cls,
        space: Space,
        k: int = 6,
        *,
        num_products: int,
        block_size: int = 1,
        max_basis: int | None = None,
    ) -> Work:
        """Return the work of `hessops.eigsh`.

        Parameters
        ----------
        space : Space
            The operator's.
        k : int
            Pairs wanted.
        num_products : int
            As many as convergence takes, which no plan knows, and the `k` that verify.
        block_size : int
            Vectors to multiply at once.
        max_basis : int, optional
            Most basis vectors to keep.

        Returns
        -------
        Work
            Holding the basis, and at the end the eigenvectors and what verifies them.
        """
        require_count(num_products=num_products, k=k, block_size=block_size)
        limit = basis_limit([space], "pairs", k, block_size, max_basis)
        size, room = min(num_products, limit), min(_ROOM, limit)
        while room < size:
            room += min(max(_ROOM, room // 8), max(1, limit - room))
        return cls(
            num_products=num_products,
            block_size=block_size,
            num_vectors=room + max(k, 3 * block_size),
            between=room + max(3 * k, 4 * block_size),
            widest=max(k, block_size),
            verb=f"eigsh, k = {k}",
        )

    @classmethod
    def trace(cls, space: Space, num_probes: int = 32, *, block_size: int | None = None) -> Work:
        """Return the work of `hessops.trace` by Hutchinson's estimator, and of `diagonal`.

        Parameters
        ----------
        space : Space
            The operator's.
        num_probes : int
            Probes.
        block_size : int, optional
            Probes to a product; as the verb chooses where not given.

        Returns
        -------
        Work
            Holding a block of probes.
        """
        require_count(num_probes=num_probes)
        size = min(block_size or default_block_size(space, num_probes), num_probes)
        return cls(
            num_products=num_probes,
            block_size=size,
            num_vectors=size,
            between=2 * size,
            per_term=True,
            verb="trace",
        )

    @classmethod
    def density(cls, *, num_probes: int = 8, num_steps: int = 64) -> Work:
        """Return the work of `hessops.spectral_density`.

        Parameters
        ----------
        num_probes, num_steps : int
            Of the density.

        Returns
        -------
        Work
            Holding some blocks of `num_probes` vectors.
        """
        require_count(num_probes=num_probes, num_steps=num_steps)
        return cls(
            num_products=num_probes * num_steps,
            block_size=num_probes,
            num_vectors=2 * num_probes,
            between=5 * num_probes,
            verb="spectral_density",
        )
