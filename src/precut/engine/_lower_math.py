"""Lowering of activations and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from precut.engine._lower import Operand, Program, UnsupportedError, row
from precut.engine._lower_layers import array
from precut.errors import PrecutError
from precut.graph import Node, ParamRef, Value
from precut.runtime import Act

__all__ = ["ACTS"]


def _prelu(node: Node, p: Program) -> Act:
    if "weight" not in node.params:
        raise UnsupportedError("its weight is computed while the network runs")
    return Act("prelu", slopes=array(node.params["weight"][1]))


def _clip(low: Any, high: Any) -> Act:
    for bound in (low, high):
        if bound is not None and not isinstance(bound, (int, float)):
            raise UnsupportedError("its bounds are no numbers")
    if low == 0 and high is None:
        return Act("relu")
    if low is not None and high is not None and low > high:
        raise UnsupportedError("its lower bound is above the upper one")
    return Act("clip", -math.inf if low is None else float(low), math.inf if high is None else float(high))


ACTS: dict[str, tuple[str, Callable[[Node, Program], Act]]] = {
    "relu": ("", lambda node, p: Act("relu")),
    "relu6": ("", lambda node, p: Act("relu6")),
    "leaky_relu": ("", lambda node, p: Act("leaky_relu", float(node.attrs["negative_slope"]))),
    "prelu": ("", _prelu),
    "elu": ("", lambda node, p: Act("elu", float(node.attrs["alpha"]))),
    "silu": ("", lambda node, p: Act("silu")),
    "gelu": ("", lambda node, p: Act("gelu" if node.attrs["approximate"] == "none" else "gelu_tanh")),
    "hardswish": ("", lambda node, p: Act("hardswish")),
    "hardsigmoid": ("", lambda node, p: Act("hardsigmoid")),
    "sigmoid": ("", lambda node, p: Act("sigmoid")),
    "tanh": ("", lambda node, p: Act("tanh")),
    "hardtanh": ("", lambda node, p: _clip(node.attrs["min_val"], node.attrs["max_val"])),
    "clamp": ("bounds are numbers", lambda node, p: _clip(node.attrs.get("min"), node.attrs.get("max"))),
}


def _activation(node: Node, p: Program) -> Operand:
    return p.emit("activation", [p.operand(node.input)], act=ACTS[node.op][1](node, p))


for _op, (_when, _) in ACTS.items():
    row(_op, "joined to what comes before it, else activation", _when)(_activation)


@row("softmax", "softmax", "over dimension 1")
def _softmax(node: Node, p: Program) -> Operand:
    if node.attrs["dim"] != 1 or node.attrs.get("dtype") is not None:
        raise UnsupportedError("it is not over the channels, dimension 1")
    return p.emit("softmax", [p.operand(node.input)])


def _dropout(node: Node, p: Program) -> Operand:
    if node.attrs.get("training") and node.attrs.get("p", 0.5) > 0:
        raise PrecutError(
            f"{node.where} has training=True though the model is in eval mode: its result would be random; pass "
            "training=self.training"
        )
    return p.operand(node.input)


for _op in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"):
    row(_op, "nothing", "training=True is refused")(_dropout)


def _same(node: Node, p: Program) -> Operand:
    if node.input.shape != node.output.shape:
        raise UnsupportedError("it changes the shape")
    return p.operand(node.input, virtual=True)


for _op in ("identity", "contiguous", "clone", "detach", "float", "to"):
    row(_op, "nothing", "" if _op != "to" else "float32 stays float32")(_same)


def _constant(node: Node, item: Any, x: Operand, shape: tuple[int, ...]) -> np.ndarray[Any, Any] | float | None:
    """A number, or one a channel, where an operand is constant; None where it is a value."""
    if isinstance(item, (bool, Value)):
        return None
    if isinstance(item, (int, float)):
        return float(item)
    if isinstance(item, ParamRef):
        tensor: torch.Tensor = next(t for name, t in node.params.values() if name == item.name)
        sizes = (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)
        if len(sizes) == len(shape) and sizes[1] in (1, x.channels) and all(s == 1 for s in (sizes[0], *sizes[2:])):
            return array(tensor).reshape(-1)
        raise UnsupportedError(f"its constant has shape {tuple(tensor.shape)}: it is no number a channel")
    raise UnsupportedError("one of its operands is neither a tensor nor a number")


def _operands(node: Node) -> tuple[Any, Any]:
    try:
        pair = node.bound["input"], node.bound["other"]
    except KeyError:
        raise UnsupportedError("it is called in a form that is not known") from None
    if node.attrs.get("alpha", 1) != 1:
        raise UnsupportedError("its alpha is not 1")
    return pair[::-1] if node.bound.get("reverse") else pair


def _pair(node: Node, first: Any, second: Any, p: Program) -> list[Operand]:
    """Two operands of which the second may be (N, C, 1, 1), in the order that the native operation wants."""
    a, b = p.operand(first, virtual=True), p.operand(second, virtual=True)
    if a.split is not None or b.split is not None:
        raise UnsupportedError("it reads a view that is no native value")
    if a.spread or (first.shape != second.shape and _one(first)) or (a.fixed and not b.fixed and not b.spread):
        a, b, first, second = b, a, second, first
    if a.spread:
        raise UnsupportedError("it reads a view that is no native value")
    shapes = [tuple(v.shape) + (1,) * (4 - len(v.shape)) for v in (first, second)]
    spread = _one(second) and shapes[0][:2] == shapes[1][:2]
    if len(first.shape) != len(second.shape) or (shapes[0] != shapes[1] and not spread):
        raise UnsupportedError(f"it combines shapes {tuple(first.shape)} and {tuple(second.shape)}")
    if (spread or b.spread) and a.rank == 2 and b.rank == 4:
        a, b = b, a
    if node.output.shape != first.shape:
        raise UnsupportedError("it gives another shape than its operands have")
    return [a, b]


def _one(value: Value) -> bool:
    return len(value.shape) == 4 and tuple(value.shape[2:]) == (1, 1)


def _linear_form(
    node: Node, p: Program, native: str, form: Callable[[Any, Any, bool], tuple[Any, Any]], flip: bool = False
) -> Operand:
    """An operation of a value and a constant (an affine map), or of two values (``native``).

    Args:
        form: (constant, whether it is the first operand) to scale and shift.
        flip: the second value is negated first.
    """
    first, second = _operands(node)
    if isinstance(first, Value) and isinstance(second, Value):
        a, b = _pair(node, first, second, p) if not flip else (p.operand(first), p.operand(second))
        if flip:
            if first.shape != second.shape or a.fixed != b.fixed or a.rank != b.rank:
                raise UnsupportedError(f"it combines shapes {tuple(first.shape)} and {tuple(second.shape)}")
            b = p.affine(b, -1.0, 0.0)
        y = p.emit(native, [a, b], fixed=a.fixed and (b.fixed or b.spread))
        p.steps[-1][1].same_size = (
            a.fixed == b.fixed and not b.spread and first.shape == second.shape and a.rank == b.rank
        )
        return y
    value, other = (first, second) if isinstance(first, Value) else (second, first)
    x = p.operand(value)
    constant = _constant(node, other, x, value.shape)
    if node.output.shape != value.shape:
        raise UnsupportedError("it gives another shape than its operand has")
    scale, shift = form(constant, np.zeros(1), value is second)
    return p.affine(x, scale, shift)


@row(
    "add",
    "the convolution's or linear layer's residual, affine for constants, else add",
    "alpha=1; equal shapes, or one is (N, C, 1, 1)",
)
def _add(node: Node, p: Program) -> Operand:
    return _linear_form(node, p, "add", lambda c, zero, swapped: (1.0, c))


@row("sub", "affine, add", "alpha=1; equal shapes, or a constant")
def _sub(node: Node, p: Program) -> Operand:
    return _linear_form(node, p, "add", lambda c, zero, swapped: (-1.0, c) if swapped else (1.0, -c), flip=True)


@row("mul", "mul, or affine for constants", "equal shapes, one is (N, C, 1, 1), or a constant")
def _mul(node: Node, p: Program) -> Operand:
    return _linear_form(node, p, "mul", lambda c, zero, swapped: (c, 0.0))


@row("div", "affine", "by a constant, without rounding_mode")
def _div(node: Node, p: Program) -> Operand:
    first, second = _operands(node)
    if not isinstance(first, Value) or isinstance(second, Value) or node.attrs.get("rounding_mode"):
        raise UnsupportedError("it does not divide by a constant")
    return _linear_form(node, p, "mul", lambda c, zero, swapped: (1.0 / np.asarray(c), 0.0))


@row("neg", "affine")
def _neg(node: Node, p: Program) -> Operand:
    return p.affine(p.operand(node.input), -1.0, 0.0)
