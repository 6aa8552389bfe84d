"""Lowering of what moves channels: concatenations, slices, shuffles, views."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from precut.engine._lower import Operand, Program, UnsupportedError, row
from precut.graph import Node, ParamRef, SizeRef, Value

__all__: list[str] = []


def _take(x: Operand, index: Any, p: Program) -> Operand:
    index = [int(i) for i in index]
    if not index:
        raise UnsupportedError("it takes no channel")
    if index == list(range(x.channels)):
        return x
    return p.emit("gather", [x], channels=len(index), index=index)


@row("cat", "cat", "over dimension 1")
def _cat(node: Node, p: Program) -> Operand:
    parts = node.bound.get("tensors", ())
    if node.attrs.get("dim", 0) != 1:
        raise UnsupportedError("it does not join channels, dimension 1")
    operands = [p.operand(part) for part in parts if not isinstance(part, Value) or part.shape[1]]
    if len({operand.rank for operand in operands}) != 1:
        raise UnsupportedError("it joins a flat tensor with a map")
    if len(operands) == 1:
        return operands[0]
    return p.emit("cat", operands, channels=sum(operand.channels for operand in operands))


def _ranges(node: Node, p: Program) -> list[Operand]:
    if node.attrs.get("dim", 0) != 1:
        raise UnsupportedError("it does not divide channels, dimension 1")
    x = p.operand(node.input)
    ends = np.cumsum([0, *(value.shape[1] for value in node.outputs)])
    return [_take(x, range(a, b), p) for a, b in itertools.pairwise(ends)]


for _op in ("chunk", "split"):
    row(_op, "gather", "over dimension 1")(_ranges)


@row("channel_shuffle", "gather")
def _channel_shuffle(node: Node, p: Program) -> Operand:
    x = p.operand(node.input)
    return _take(x, np.arange(x.channels).reshape(node.attrs["groups"], -1).T.reshape(-1), p)


@row("narrow", "gather", "over dimension 1")
def _narrow(node: Node, p: Program) -> Operand:
    if node.attrs["dim"] != 1 or not isinstance(node.attrs.get("start"), int):
        raise UnsupportedError("it does not take channels, dimension 1")
    start = node.attrs["start"] % node.input.shape[1]
    return _take(p.operand(node.input), range(start, start + node.attrs["length"]), p)


@row("flip", "gather", "over dimension 1")
def _flip(node: Node, p: Program) -> Operand:
    if tuple(node.attrs["dims"]) != (1,):
        raise UnsupportedError("it does not turn channels, dimension 1")
    x = p.operand(node.input)
    return _take(x, range(x.channels - 1, -1, -1), p)


@row("index_select", "gather", "over dimension 1, with a constant index")
def _index_select(node: Node, p: Program) -> Operand:
    if node.attrs["dim"] != 1:
        raise UnsupportedError("it does not take channels, dimension 1")
    numbers = _numbers(node, node.bound["index"])
    if not numbers and all(reader.op == "cat" for reader in node.output.consumers):
        return p.operand(node.input)  # stands for a tensor without channels, which a concatenation leaves out
    return _take(p.operand(node.input), numbers, p)


def _numbers(node: Node, item: Any) -> list[int]:
    """Non-negative channel numbers of an index that does not change."""
    if isinstance(item, ParamRef):
        item = next(tensor for name, tensor in node.params.values() if name == item.name)
    if isinstance(item, (list, tuple)) and all(isinstance(i, int) and not isinstance(i, bool) for i in item):
        item = torch.tensor(item)
    if not isinstance(item, torch.Tensor) or item.ndim != 1 or item.is_floating_point():
        raise UnsupportedError("its index is no constant list of channels")
    numbers = item.nonzero().flatten() if item.dtype in (torch.bool, torch.uint8) else item  # those are masks
    return [int(i) % node.input.shape[1] for i in numbers]


@row(
    "getitem",
    "gather (channels), avg_pool of one pixel (steps over rows and columns)",
    "x[:, channels], x[:, :, ::s, ::s], x[:, :, None, None]",
)
def _getitem(node: Node, p: Program) -> Operand:
    index = node.bound["index"]
    parts = list(index) if isinstance(index, tuple) else [index]
    rank = len(node.input.shape)
    if any(part is Ellipsis for part in parts):
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        used = sum(part is not None and part is not Ellipsis for part in parts)
        parts[at : at + 1] = [slice(None)] * (rank - used)
    x = p.operand(node.input)
    if None in parts:
        news = [i for i, part in enumerate(parts) if part is None]
        if rank == 2 and x.fixed and min(news) >= 2 and all(_all(part) for part in parts if part is not None):
            return x
        raise UnsupportedError("it adds a dimension")
    parts += [slice(None)] * (rank - len(parts))
    if not _all(parts[0]):
        raise UnsupportedError("it takes some images of the batch")
    for part in parts[2:]:
        if not isinstance(part, slice) or part.stop is not None or part.start not in (None, 0):
            raise UnsupportedError("it crops rows or columns")
    steps = [1 if part.step is None else part.step for part in parts[2:]]
    if isinstance(parts[1], slice):
        bounds = [b.example if hasattr(b, "example") else b for b in (parts[1].start, parts[1].stop, parts[1].step)]
        channels = list(range(x.channels))[slice(*bounds)]
    else:
        channels = _numbers(node, parts[1])
    y = _take(x, channels, p)
    if any(step != 1 for step in steps):
        y = p.emit("avg_pool", [y], kernel=(1, 1), stride=tuple(steps), padding=(0, 0))
    return y


def _all(part: Any) -> bool:
    return isinstance(part, slice) and part.start in (None, 0) and part.stop is None and part.step in (None, 1)


@row("unsqueeze", "nothing", "(N, C) to (N, C, 1)")
def _unsqueeze(node: Node, p: Program) -> Operand:
    x = p.operand(node.input)
    if node.attrs["dim"] < 2 or not x.fixed or any(size != 1 for size in node.input.shape[2:]):
        raise UnsupportedError("it adds a dimension that is neither rows nor columns")
    return x


@row("squeeze", "nothing", "(N, C, 1, 1) of a global pool to (N, C)")
def _squeeze(node: Node, p: Program) -> Operand:
    x = p.operand(node.input)
    dims = node.attrs.get("dim")
    dims = (dims,) if isinstance(dims, int) else dims
    if dims is None or min(dims) < 2 or not x.fixed or any(size != 1 for size in node.input.shape[2:]):
        raise UnsupportedError("it may remove other dimensions than rows and columns of one pixel")
    return x if len(node.output.shape) != 2 or x.rank == 2 else p.emit("flatten", [x], rank=2)


def _follows(part: Any, back: int, p: Program) -> bool:
    """Whether a size in a view is left to torch, or is that dimension, counted from the last, of some value."""
    if not isinstance(part, SizeRef):
        return part == -1
    if part.function is not None:
        return False
    value, dim = part.operands
    return dim == len(p.graph.values_by_id[value].shape) - back


@row(
    "reshape",
    "nothing, or gather",
    "channel shuffles written as views, rows and columns not as numbers; (N, C) to (N, C, 1, 1)",
    reads_sizes=True,
)
def _reshape(node: Node, p: Program) -> Operand:
    before, after = tuple(node.input.shape), tuple(node.output.shape)
    spec = node.bound.get("shape")
    if spec is not None and (not spec or (isinstance(spec[0], int) and spec[0] != -1)):
        raise UnsupportedError("the batch is written as a number")
    if before[:1] != after[:1]:
        raise UnsupportedError("it changes the batch")
    x = p.operand(node.input, virtual=True)
    tail = before[-2:]
    if (
        spec is not None
        and len(spec) > 3
        and not x.fixed
        and not (_follows(spec[-2], 2, p) and _follows(spec[-1], 1, p))
    ):
        raise UnsupportedError("its rows and columns are not written as those of its input")
    if x.split is not None:
        if len(after) == 4 and after[2:] == tail and after[1] == x.channels:
            return _take(replace(x, split=None), x.split.reshape(-1), p)
    elif x.plain and len(before) == 4 and len(after) == 5 and after[3:] == tail:
        return replace(x, split=np.arange(x.channels).reshape(after[1:3]))
    elif x.plain and x.fixed and before[1:2] == after[1:2] and set(before[2:]) | set(after[2:]) <= {1}:
        return x if len(after) != 2 or x.rank == 2 else p.emit("flatten", [x], rank=2)
    raise UnsupportedError(f"it makes {after} of {before}")


def _swap(order: tuple[int, ...], node: Node, p: Program) -> Operand:
    x = p.operand(node.input, virtual=True)
    if x.split is None or order != (0, 2, 1, 3, 4):
        raise UnsupportedError("it moves other dimensions than the groups of a channel shuffle")
    return replace(x, split=x.split.T)


@row("transpose", "nothing", "inside a channel shuffle")
def _transpose(node: Node, p: Program) -> Operand:
    order = list(range(len(node.input.shape)))
    a, b = node.attrs["dim0"], node.attrs["dim1"]
    order[a], order[b] = order[b], order[a]
    return _swap(tuple(order), node, p)


@row("permute", "nothing", "inside a channel shuffle")
def _permute(node: Node, p: Program) -> Operand:
    return _swap(tuple(node.attrs["dims"]), node, p)


def _spread(node: Node, p: Program) -> Operand:
    x = p.operand(node.input)
    before, after = tuple(node.input.shape), tuple(node.output.shape)
    if not x.fixed or len(before) != 4 or before[2:] != (1, 1) or before[:2] != after[:2] or len(after) != 4:
        raise UnsupportedError("it does not repeat a pixel over a map")
    return replace(x, spread=True)


@row("expand_as", "nothing", "(N, C, 1, 1) of a global pool, then added or multiplied")
def _expand_as(node: Node, p: Program) -> Operand:
    if not isinstance(node.bound.get("other"), Value):
        raise UnsupportedError("it does not repeat a pixel over a map")
    return _spread(node, p)


@row("expand", "nothing", "(N, C, 1, 1) of a global pool, then added or multiplied", reads_sizes=True)
def _expand(node: Node, p: Program) -> Operand:
    return _spread(node, p)
