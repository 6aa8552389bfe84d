"""The arguments of a call on a compiled model: as in its example, but for batch, sizes and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from precut.errors import PrecutError
from precut.graph import Graph, Value, leaves

__all__ = ["NO_IMAGE", "Inputs"]

NO_IMAGE = "takes at least one image a call"
Array = torch.Tensor | np.ndarray[Any, Any]
_ARRAYS = (torch.Tensor, np.ndarray)


class Inputs:
    """Reads calls.

    Attributes:
        values: the graph's values of the example's tensors, in order.
        shapes: of the example's tensors.
    """

    def __init__(self, graph: Graph) -> None:
        args, kwargs = graph.signature
        self.values = list(graph.inputs)
        self.shapes = tuple(value.shape for value in self.values)
        self._keywords = list(kwargs)
        self._example = list(leaves((args, tuple(kwargs.values()))))

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[torch.Tensor], bool]:
        """The call's tensors in order, and whether they came as NumPy arrays."""
        if set(kwargs) != set(self._keywords):
            raise PrecutError(
                f"this compiled model takes the keyword arguments {self._keywords} of its example; got {sorted(kwargs)}"
            )
        given = list(leaves((args, tuple(kwargs[name] for name in self._keywords))))
        arrays = [leaf for leaf in given if isinstance(leaf, _ARRAYS)]
        if len(given) != len(self._example) or len(arrays) != len(self.values):
            raise PrecutError(
                f"this compiled model takes {self._named()} and else what the example held; got {len(arrays)} tensors "
                f"and {len(given) - len(arrays)} other arguments"
            )
        for leaf, example in zip(given, self._example, strict=True):
            tensors = isinstance(leaf, _ARRAYS), isinstance(example, torch.Tensor)
            if tensors != (True, True) and (any(tensors) or not _equal(leaf, example)):
                raise PrecutError(
                    f"an argument of this compiled model was {_shown(example)} in its example; got {_shown(leaf)}"
                )
        taken = [self._tensor(value, leaf) for value, leaf in zip(self.values, arrays, strict=True)]
        return taken, any(isinstance(leaf, np.ndarray) for leaf in arrays)

    def tensors(self, items: Array | Sequence[Array]) -> list[torch.Tensor]:
        """The tensors of a call alone, one for each of the example's; a single one needs no list."""
        given = [items] if isinstance(items, _ARRAYS) else list(items) if isinstance(items, (tuple, list)) else []
        if len(given) != len(self.values) or not all(isinstance(item, _ARRAYS) for item in given):
            raise PrecutError(f"inputs must be {self._named()}, in a list where there are several; got {_shown(items)}")
        return [self._tensor(value, item) for value, item in zip(self.values, given, strict=True)]

    def _named(self) -> str:
        names = ", ".join(value.name for value in self.values)
        return f"{len(self.values)} tensor{'s' * (len(self.values) != 1)} ({names})"

    @staticmethod
    def _tensor(value: Value, leaf: Array) -> torch.Tensor:
        if isinstance(leaf, np.ndarray):
            leaf = _from_numpy(value, leaf)
        tensor = leaf.detach()
        if tensor.dtype != value.dtype:
            raise PrecutError(
                f"input {value.name!r} was {str(value.dtype).removeprefix('torch.')} when the model was compiled; got "
                f"{str(tensor.dtype).removeprefix('torch.')}"
            )
        if tensor.layout != torch.strided:
            raise PrecutError(f"input {value.name!r} is {tensor.layout}, not a dense tensor: call .to_dense()")
        if tensor.device.type != "cpu":
            raise PrecutError(
                f"a compiled model runs on the CPU; input {value.name!r} is on {tensor.device}: call .cpu()"
            )
        if tensor.ndim != len(value.shape):
            raise PrecutError(
                f"input {value.name!r} had shape {tuple(value.shape)} when the model was compiled; got {tuple(tensor.shape)}"
            )
        if tensor.ndim and not tensor.shape[0]:
            raise PrecutError(f"a compiled model {NO_IMAGE}; input {value.name!r} has shape {tuple(tensor.shape)}")
        return tensor


def _from_numpy(value: Value, array: np.ndarray[Any, Any]) -> torch.Tensor:
    # Torch reads the machine's byte order alone, and warns of arrays that cannot be written to: such are copied.
    native = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    try:
        return torch.from_numpy(native)
    except (TypeError, ValueError):
        raise PrecutError(f"input {value.name!r} is an array of {array.dtype}, which is no dtype of torch") from None


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # objects that compare in ways of their own
        return False


def _shown(item: Any) -> str:
    """A value for a message; of a tensor its kind, not its numbers."""
    if isinstance(item, _ARRAYS):
        return f"{type(item).__name__} of shape {tuple(item.shape)}"
    if isinstance(item, (list, tuple)):
        return f"[{', '.join(_shown(part) for part in item)}]"
    return f"{item!r:.60}"
