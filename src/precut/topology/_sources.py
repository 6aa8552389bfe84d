"""Where each channel of a value comes from: the value that a layer made, and its number there.

Operations that move channels (concatenation, picking, shuffling) move these codes; others keep them. At an addition the
codes are those of the operand that passed most layers; what is added to it is the business of ``_residual``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from precut.graph import Graph, Node, ParamRef, SizeRef, Value, rebuild
from precut.topology._layers import is_gate, is_layer

__all__ = ["NOTHING", "Codes", "Sources", "channel_of", "maker_of"]

Codes = npt.NDArray[np.int64]
NOTHING = -1  # a channel of zeros
_BITS = 24
# Operations that move channels and nothing else; they may be tried on maps of one pixel.
_OF_CHANNELS = ("cat", "index_select", "chunk", "split", "narrow", "flip", "roll", "channel_shuffle", "getitem")
# Operations whose effect on channels depends on all dimensions.
_OF_SHAPES = (
    "reshape", "flatten", "transpose", "permute", "movedim", "unsqueeze", "squeeze", "expand", "expand_as", "stack",
    "unbind", "select", "pixel_shuffle", "pixel_unshuffle", "torch.hstack", "torch.dstack", "torch.vstack",
)  # fmt: skip


def maker_of(codes: Codes) -> Codes:
    """Ids of the values that the channels were made as; NOTHING for zeros."""
    return codes >> _BITS


def channel_of(codes: Codes) -> Codes:
    """The channels' numbers in those values."""
    return codes & ((1 << _BITS) - 1)


class Sources:
    """The sources of every value's channels.

    Attributes:
        codes: value id to one code for each channel.
        dims: value id to the dimension of its channels: 1, or the last one where linear layers make or read it.
        used_aside: ids of values that are also used where their codes do not go on: added to something deeper, as
            gates, returned.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.codes: dict[int, Codes] = {}
        self.dims: dict[int, int] = {}
        self.used_aside: set[int] = set()
        self._depths: dict[int, int] = {}
        for value in graph.inputs:
            self.dims[value.id] = self._dim(value, None)
            self._make(value, 0)
        for node in graph.nodes:
            for value in node.outputs:
                self.dims[value.id] = self._dim(value, node)
            depth = max((self._depths[value.id] for value in node.inputs), default=0)
            if is_layer(node):
                self._make(node.output, depth + 1)
                for value in node.outputs[1:]:
                    self._make(value, depth + 1)
            else:
                self._follow(node, depth)
        for value in graph.outputs:
            self._set_aside(value)

    def _make(self, value: Value, depth: int) -> None:
        size = value.shape[self.dims[value.id]] if len(value.shape) > 1 else 1
        self.codes[value.id] = (value.id << _BITS) + np.arange(size, dtype=np.int64)
        self._depths[value.id] = depth

    def _dim(self, value: Value, node: Node | None) -> int:
        """Where a value's channels are."""
        rank = len(value.shape)
        if rank < 3:
            return min(1, rank - 1)
        if node is not None and is_layer(node):
            return rank - 1 if node.op == "linear" else 1
        same = [self.dims[item.id] for item in (node.inputs if node is not None else ()) if len(item.shape) == rank]
        if node is not None and same and node.op in ("permute", "transpose"):
            order = list(node.attrs["dims"]) if node.op == "permute" else list(range(rank))
            if node.op == "transpose":
                one, other = node.attrs["dim0"], node.attrs["dim1"]
                order[one], order[other] = other, one
            return [axis % rank for axis in order].index(same[0])
        for reader in value.consumers:
            if is_layer(reader) and reader.input is value:
                return rank - 1 if reader.op == "linear" else 1
        return same[0] if same else 1

    def _set_aside(self, value: Value) -> None:
        self.used_aside |= set(maker_of(self.codes[value.id]).tolist())

    def _follow(self, node: Node, depth: int) -> None:
        operands = list(dict.fromkeys(node.inputs))
        found: list[Codes | None]
        if node.op in _OF_CHANNELS or node.op in _OF_SHAPES:
            found = self._moved(node)
        elif node.op == "pad":
            found = [self._padded(node)]
        else:
            full = [value for value in operands if not is_gate(value, node)] or operands
            main = max(full, key=lambda value: self._depths[value.id], default=None)
            for value in operands:
                if value is not main:
                    self._set_aside(value)
            found = [None if main is None else self.codes[main.id]] * len(node.outputs)
        for value, codes in zip(node.outputs, found, strict=True):
            if codes is not None and len(value.shape) > 1 and len(codes) == value.shape[self.dims[value.id]]:
                self.codes[value.id] = codes
                self._depths[value.id] = depth
            else:  # what cannot be followed counts as made here
                self._make(value, depth)
                for operand in operands:
                    self._set_aside(operand)

    def _padded(self, node: Node) -> Codes | None:
        """Padding of rows and columns keeps channels; that of the channels' dimension adds zeros."""
        codes, rank = self.codes[node.input.id], len(node.input.shape)
        amounts = list(node.attrs.get("padding") or ())
        # Of the amounts for the channels, which are counted from the last dimension.
        place = 2 * (rank - 1 - self.dims[node.input.id])
        if len(amounts) <= place or rank < 2:
            return codes
        before, after = amounts[place], amounts[place + 1]
        kept = codes[max(0, -before) : len(codes) - max(0, -after)]
        return np.pad(kept, (max(0, before), max(0, after)), constant_values=NOTHING << _BITS)

    def _moved(self, node: Node) -> list[Codes | None]:
        """What the operation does to numbers that stand in the channels' places."""
        nothing: list[Codes | None] = [None] * len(node.outputs)
        small = node.op in _OF_CHANNELS and self._only_channels(node)

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return self._stand_in(leaf, small)
            if isinstance(leaf, SizeRef):
                return leaf.example
            if isinstance(leaf, ParamRef):
                held = [tensor for name, tensor in node.params.values() if name == leaf.name]
                return held[0] if held else self.graph.constants[leaf.name]
            return leaf

        call: Callable[..., Any] | None = node.function if node.module is None else node.module.forward
        if call is None or any(tensor.is_meta for _, tensor in node.params.values()):
            return nothing  # an index without numbers
        try:
            with torch.no_grad():
                result = call(*rebuild(node.args, fill), **rebuild(node.kwargs, fill))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return nothing
        tensors = [result] if isinstance(result, torch.Tensor) else list(result)
        if len(tensors) != len(node.outputs):
            return nothing
        return [_read(tensor, self.dims[value.id]) for tensor, value in zip(tensors, node.outputs, strict=True)]

    def _stand_in(self, value: Value, small: bool) -> torch.Tensor:
        """The codes in the value's shape, repeated without memory; or on a map of one pixel."""
        codes = torch.from_numpy(self.codes[value.id])
        rank = len(value.shape)
        if rank < 2:
            return codes.expand(value.shape)
        shaped = codes.view([-1 if axis == self.dims[value.id] else 1 for axis in range(rank)])
        return shaped if small else shaped.expand(value.shape)

    def _only_channels(self, node: Node) -> bool:
        """Whether a move changes no other dimension than the channels'."""
        place = self.dims[node.inputs[0].id]
        if node.op == "getitem":
            index = node.bound.get("index")
            parts = index if isinstance(index, tuple) else (index,)
            return all(part == slice(None) for axis, part in enumerate(parts) if axis != place)
        dims = node.attrs.get("dim", node.attrs.get("dims", 1 if node.op == "channel_shuffle" else 0))
        return dims in (place, (place,))


def _read(tensor: torch.Tensor, dim: int) -> Codes | None:
    """The codes of a moved stand-in along ``dim``, if whole channels were moved."""
    if tensor.ndim < 2 or not tensor.shape[0]:
        return None
    rows = tensor[0].movedim(dim - 1, 0).reshape(tensor.shape[dim], -1)
    if not rows.shape[1] or bool((rows != rows[:, :1]).any()):
        return None if rows.shape[0] else np.empty(0, np.int64)
    return rows[:, 0].numpy()
