"""Which recorded tensors share memory, so that a write in place is never missed by another name of the same data."""

from __future__ import annotations

import weakref
from collections import defaultdict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from precut.graph._graph import Value

__all__ = ["Aliases"]


class Aliases:
    """The recorded tensors that are alive, each with its present value."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], Value]] = {}
        self._by_storage: dict[int, list[int]] = defaultdict(list)
        self._stale: dict[int, str] = {}

    def bind(self, tensor: torch.Tensor, value: Value) -> None:
        """From now on ``tensor`` stands for ``value``."""
        self._known[id(tensor)] = (weakref.ref(tensor), value)
        self._stale.pop(id(tensor), None)
        self._by_storage[_storage(tensor)].append(id(tensor))

    def value(self, tensor: torch.Tensor) -> Value | None:
        """The value that ``tensor`` stands for, if it is recorded."""
        found = self._known.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def stale(self, tensor: torch.Tensor) -> str | None:
        """What wrote into the tensor's memory through another name, if something did."""
        return self._stale.get(id(tensor)) if self.value(tensor) is not None else None

    def written(self, tensor: torch.Tensor, what: str) -> None:
        """Marks every other recorded tensor that shares memory with ``tensor`` as overwritten by ``what``."""
        for key in set(self._by_storage[_storage(tensor)]):
            other = self._known[key][0]()
            if other is not None and other is not tensor and id(other) == key and _overlap(tensor, other):
                self._stale[key] = what


def _storage(tensor: torch.Tensor) -> int:
    # Tensors without strided storage (sparse ones) alias nothing that can be told here.
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else -id(tensor)


def _overlap(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one storage have an element in common."""
    if first.numel() == 0 or second.numel() == 0 or _storage(first) != _storage(second):
        return False
    if first.element_size() != second.element_size():
        return True  # views as another type: taken as overlapping
    size = max(_end(first), _end(second))
    touched = torch.zeros(size, dtype=torch.bool)
    touched.as_strided(first.shape, first.stride(), first.storage_offset()).fill_(True)
    return bool(touched.as_strided(second.shape, second.stride(), second.storage_offset()).any())


def _end(tensor: torch.Tensor) -> int:
    """One past the last element in the storage."""
    spans = (max(0, size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + sum(spans) + 1)
