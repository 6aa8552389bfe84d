"""Rules of operations that take each element by itself, and what all rules share."""

from __future__ import annotations

from typing import Any

import numpy as np

from precut.graph._flow import Flow, UnfollowedError, rule
from precut.graph._graph import Node, ParamRef, Value
from precut.graph._labels import Codes, Labels, collapse
from precut.graph._structure import leaves

__all__ = ["argument", "channels", "elementwise", "like", "main_input"]


def argument(node: Node, role: str, default: Any = None) -> Any:
    """An argument by name: a Value, a ParamRef, a SizeRef or a plain value, the same for modules and functions. Sizes
    are SizeRefs where they were derived from shapes; dimensions and the like are as in ``node.attrs``."""
    if role in ("input", "tensors") and node.module is not None:
        return node.args[0] if node.args else next(iter(node.kwargs.values()))
    if role in node.bound:
        return node.bound[role]
    return node.attrs.get(role, default)


def main_input(flow: Flow, node: Node) -> Labels:
    """The labels of the first argument."""
    return flow.of(argument(node, "input"))


def channels(node: Node, labels: Labels, dim: int) -> Codes | None:
    """The codes along ``dim`` of a tensor that has no others; None where no channels are followed."""
    if not labels.followed:
        return None
    codes = collapse(labels, dim)
    if codes is None:
        raise UnfollowedError(f"{node.where} takes dimension {dim} as channels, and they are not (only) there")
    return codes


def like(labels: Labels, value: Value) -> Labels:
    """The same codes for ``value``, of as many dimensions."""
    if not labels.followed:
        return Labels(value.shape, reason=labels.reason)
    shape = tuple(labels.shape[d] if d in labels.dims else value.shape[d] for d in range(len(value.shape)))
    return Labels(shape, labels.dims, labels.codes)


@rule(
    "identity", "relu", "relu6", "hardtanh", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish",
    "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign", "logsigmoid", "tanhshrink", "softshrink", "hardshrink",
    "threshold", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "clamp",
    "neg", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "sin", "cos", "erf", "sign", "round", "floor",
    "ceil", "clone", "detach", "contiguous", "to", "float", "double", "half",
)  # fmt: skip
def _each(flow: Flow, node: Node) -> list[Labels]:
    tensors = [leaf for leaf in leaves((node.args, node.kwargs)) if isinstance(leaf, (Value, ParamRef))]
    if len(tensors) != 1 and node.op != "to":
        raise UnfollowedError(f"{node.where} is not followed with a tensor as a setting")
    labels = flow.view_of_param(node, main_input(flow, node))
    return [Labels(labels.shape, labels.dims, labels.codes, labels.constant, labels.reason)]


@rule(
    "add", "sub", "mul", "div", "pow", "maximum", "minimum", "where", "eq", "ne", "lt", "le", "gt", "ge", "lerp",
    "addcmul",
)  # fmt: skip
def _together(flow: Flow, node: Node) -> list[Labels]:
    items = [item for item in leaves((node.args, node.kwargs)) if isinstance(item, (Value, ParamRef))]
    captured = [item.shape if isinstance(item, Value) else tuple(flow.tensor(item).shape) for item in items]
    return [elementwise(flow, node, [flow.of(item) for item in items], captured)]


def elementwise(
    flow: Flow, node: Node, operands: list[Labels], captured: list[tuple[int, ...]] | None = None
) -> Labels:
    """Operands that meet element by element, with broadcasting.

    Args:
        captured: the operands' shapes in the capture, where these may differ: they tell a single channel that meets
            all of another tensor's from one that is left of equally many.
    """
    try:
        shape = np.broadcast_shapes(*(labels.shape for labels in operands))
    except ValueError:
        sizes = " and ".join(str(labels.shape) for labels in operands)
        raise UnfollowedError(f"{node.where} meets shapes {sizes}") from None
    aligned = [_aligned(labels, len(shape)) for labels in operands]
    before = [(1,) * (len(shape) - len(old)) + old for old in captured or [labels.shape for labels in operands]]
    whole = np.broadcast_shapes(*before)

    def fullness(k: int) -> tuple[int, int]:
        return sum(before[k][d] == whole[d] for d in aligned[k].dims), len(aligned[k].dims)

    main = max(range(len(aligned)), key=fullness)
    first = aligned[main]
    if not first.followed:
        reason = next((labels.reason for labels in aligned if labels.reason), "")
        for labels in aligned:
            if labels.param is not None:
                flow.freeze_tensor(labels.param, f"{node.where} meets it with channels that are not followed")
        return Labels(shape, constant=all(labels.constant for labels in aligned), reason=reason)
    if any(before[main][d] != whole[d] for d in first.dims):
        raise UnfollowedError(f"{node.where} repeats a single channel")
    for k, labels in enumerate(aligned):
        if k != main:
            _meet(flow, node, first, labels, [before[k][d] == whole[d] for d in range(len(shape))])
    return Labels(shape, first.dims, first.codes)


def _aligned(labels: Labels, ndim: int) -> Labels:
    missing = ndim - len(labels.shape)
    shape = (1,) * missing + labels.shape
    codes = None if labels.codes is None else labels.codes.reshape((1,) * missing + labels.codes.shape)
    dims = tuple(d + missing for d in labels.dims)
    return Labels(shape, dims, codes, labels.constant, labels.reason, labels.param)


def _meet(flow: Flow, node: Node, first: Labels, other: Labels, full: list[bool]) -> None:
    """What ``other`` means for the codes of ``first``, both of the result's number of dimensions; ``full`` tells along
    which of these ``other`` is not repeated."""
    if other.constant:
        return
    if any(d not in first.dims for d in other.dims):
        raise UnfollowedError(f"{node.where} joins channels of different dimensions")
    for d in first.dims:
        if d in other.dims or not full[d]:
            continue
        if other.param is not None:
            _read_param(flow, node, first, other, d)
        elif other.shape[d] > 1:
            raise UnfollowedError(f"{node.where} joins them with channels that are not followed" + _because(other))
    if other.followed:
        if all(full[d] for d in other.dims):
            flow.join(node, first.full, other.full)
        else:
            flow.mark(node, other.full, reads=True)  # one channel meets all others: it is not like them


def _read_param(flow: Flow, node: Node, first: Labels, param: Labels, d: int) -> None:
    """A parameter that has a value for each position along ``d``."""
    assert param.param is not None
    captured = flow.tensor(ParamRef(param.param, "parameter")).shape
    dim = d - (len(first.shape) - len(captured))
    if dim < 0 or captured[dim] == 1:
        return
    if len(first.dims) > 1:
        raise UnfollowedError(f"{node.where} meets channels that are spread over several dimensions with a parameter")
    axis, tensors = flow.param_axis(param.param, dim)
    flow.read(node, param.param, axis, first.full.reshape(-1), tensors)


def _because(labels: Labels) -> str:
    return f" ({labels.reason})" if labels.reason else ""
