"""The bytes of tensors that come into being while something runs, and the most that live at a time."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveMemory"]


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of tensors that operations return, as long as anything holds it.

    What a kernel needs for itself while it runs is not seen.

    Parameters
    ----------
    device : torch.device
        Whose memory to count.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._device = device.type
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in self._tensors((args, kwargs)):
            self._note(tensor, 0)
        result = func(*args, **(kwargs or {}))
        for tensor in self._tensors(result):
            self._note(tensor, tensor.untyped_storage().nbytes())
        return result

    def reset_peak(self) -> None:
        """Count the peak from here."""
        self.peak = self.now

    def _tensors(self, tree: Any) -> list[Tensor]:
        leaves: list[Any] = tree_leaves(tree)
        return [
            leaf
            for leaf in leaves
            if torch.is_tensor(leaf)
            and leaf.device.type == self._device
            and leaf.layout == torch.strided
        ]

    def _note(self, tensor: Tensor, size: int) -> None:
        """Count a tensor's memory if it is new; views share what they are of."""
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._known:
            return
        self._known.add(place)
        # The Python object of a storage lives as long as the storage does.
        weakref.finalize(storage, self._forget, place, size).atexit = False
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size
