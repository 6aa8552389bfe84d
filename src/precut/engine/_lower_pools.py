"""Lowering of pooling, means over pixels, flattening and padding."""

from __future__ import annotations

from typing import Any

from precut.engine._lower import Operand, Program, UnsupportedError, row, size_refs
from precut.engine._lower_math import ACTS
from precut.graph import Node, SizeRef, Value

__all__: list[str] = []

# Operations that may come between a flattened map and its linear layer.
_BETWEEN = frozenset(["cat", "dropout", "identity", *ACTS])


@row("max_pool2d", "max_pool", "without return_indices")
def _max_pool2d(node: Node, p: Program) -> Operand:
    a = node.attrs
    if a.get("return_indices"):
        raise UnsupportedError("it returns indices too")
    return p.emit(
        "max_pool", [p.map(node.input)], kernel=a["kernel_size"], stride=a["stride"], padding=a["padding"],
        dilation=a["dilation"], ceil_mode=a["ceil_mode"],
    )  # fmt: skip


@row("avg_pool2d", "avg_pool; adaptive_avg_pool where the kernel is the map's own size", "", reads_sizes=True)
def _avg_pool2d(node: Node, p: Program) -> Operand:
    a = node.attrs
    x = p.map(node.input)
    if size_refs((node.args, node.kwargs)):
        kernel, stride = node.bound.get("kernel_size"), node.bound.get("stride")
        if _whole(kernel, node) and (stride is None or _whole(stride, node)) and not any(a["padding"]):
            return p.emit("adaptive_avg_pool", [x], fixed=True, size=(1, 1))
        raise UnsupportedError("one of its arguments follows the size of the input")
    return p.emit(
        "avg_pool", [x], kernel=a["kernel_size"], stride=a["stride"], padding=a["padding"], ceil_mode=a["ceil_mode"],
        count_include_pad=a["count_include_pad"], divisor=a.get("divisor_override") or 0,
    )  # fmt: skip


def _whole(size: Any, node: Node) -> bool:
    """Whether a window is the height and width of the node's input."""
    refs = [part.operands if isinstance(part, SizeRef) and part.function is None else None for part in size or ()]
    return refs == [(node.input.id, 2), (node.input.id, 3)]


def _adaptive(native: str, node: Node, p: Program) -> Operand:
    size = node.attrs["output_size"]
    if any(part is None for part in size):
        raise UnsupportedError("one side of its output_size is None")
    if node.attrs.get("return_indices"):
        raise UnsupportedError("it returns indices too")
    return p.emit(native, [p.map(node.input)], fixed=True, size=size)


@row("adaptive_avg_pool2d", "adaptive_avg_pool", "output_size without None")
def _adaptive_avg(node: Node, p: Program) -> Operand:
    return _adaptive("adaptive_avg_pool", node, p)


@row("adaptive_max_pool2d", "adaptive_max_pool", "output_size without None; without return_indices")
def _adaptive_max(node: Node, p: Program) -> Operand:
    return _adaptive("adaptive_max_pool", node, p)


def _over_pixels(native: str, node: Node, p: Program) -> Operand:
    dims = node.attrs.get("dim")
    if dims is None or tuple(sorted(dims)) != (2, 3) or node.attrs.get("dtype") is not None:
        raise UnsupportedError("it does not reduce exactly rows and columns, (2, 3)")
    y = p.emit(native, [p.map(node.input)], fixed=True, size=(1, 1))
    return y if node.attrs.get("keepdim") else p.emit("flatten", [y], rank=2)


@row("mean", "adaptive_avg_pool", "over (2, 3)")
def _mean(node: Node, p: Program) -> Operand:
    return _over_pixels("adaptive_avg_pool", node, p)


@row("amax", "adaptive_max_pool", "over (2, 3)")
def _amax(node: Node, p: Program) -> Operand:
    return _over_pixels("adaptive_max_pool", node, p)


def _fits_one_size(value: Value, p: Program) -> bool:
    """Whether all that becomes of an (N, C) value is read by layers whose weights take exactly so many channels: with
    another number the network is refused as a whole."""
    if not value.consumers or any(value is output for output in p.graph.outputs):
        return False
    return all(
        node.op in ("linear", "batch_norm")
        or (node.op in _BETWEEN and all(_fits_one_size(output, p) for output in node.outputs))
        for node in value.consumers
    )


@row(
    "flatten",
    "flatten",
    "from dimension 1 to the last; the map has one size for all inputs, or linear layers read it",
    reads_sizes=True,
)
def _flatten(node: Node, p: Program) -> Operand:
    x = p.operand(node.input)
    if x.rank == 2:
        return x
    if not x.fixed and not _fits_one_size(node.output, p):
        raise UnsupportedError("its number of channels follows the size of the input")
    return p.emit("flatten", [x], channels=node.output.shape[1], rank=2)


@row("pad", "the convolution's padding, pad (rows, columns) or gather (channels)", "constant; not negative")
def _pad(node: Node, p: Program) -> Operand:
    sides = list(node.attrs["padding"]) if isinstance(node.attrs["padding"], (tuple, list)) else []
    value = float(node.attrs.get("value") or 0.0)
    if node.attrs.get("mode", "constant") != "constant":
        raise UnsupportedError(f"its mode is {node.attrs['mode']!r}; the native library pads with a constant")
    if len(sides) not in (2, 4, 6) or min(sides) < 0:
        raise UnsupportedError("it crops, or pads the batch")
    x = p.map(node.input)
    left, right, top, bottom, before, after = sides + [0] * (6 - len(sides))
    if (before or after) and value:
        raise UnsupportedError("it pads channels with another number than zero")
    if before or after:
        index = [-1] * before + list(range(x.channels)) + [-1] * after
        x = p.emit("gather", [x], channels=len(index), index=index)
    if left or right or top or bottom:
        x = p.emit("pad", [x], padding=(top, left, bottom, right), value=value)
    return x
