"""Rules of operations that work within each channel, over channels, or make tensors of one value."""

from __future__ import annotations

import numpy as np

from precut.graph._flow import Flow, UnfollowedError, rule
from precut.graph._graph import Node, ParamRef, Value
from precut.graph._labels import Codes, Labels
from precut.graph._rules import argument, elementwise, like, main_input
from precut.graph._sizes import SizeRef


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool2d", "interpolate",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
)  # fmt: skip
def _spatial(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    spatial = len(labels.shape) - 2 if node.op == "interpolate" else int(node.op[-2])
    if any(d >= len(labels.shape) - spatial for d in labels.dims):
        raise UnfollowedError(f"{node.where} works along a dimension that holds channels")
    return [like(labels, value) for value in node.outputs]


def _others(labels: Labels, dims: set[int]) -> Codes | None:
    """The place along the other dimensions with codes: what shares it is taken together. None for a single place."""
    rest = [d for d in labels.dims if d not in dims]
    if not rest:
        return None
    place = np.zeros([1] * len(labels.shape), np.int64)
    for d in rest:
        steps = np.arange(labels.shape[d]).reshape([-1 if axis == d else 1 for axis in range(len(labels.shape))])
        place = place * labels.shape[d] + steps
    return np.broadcast_to(place, labels.full.shape)


@rule("softmax", "log_softmax", "normalize")
def _over_channels(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    if node.attrs["dim"] in labels.dims:
        # A channel of zeros adds nothing to a norm, but something to a sum of exponentials.
        whole = "" if node.op == "normalize" else f"{node.where} takes a sum over the channels"
        flow.mark(node, labels.full, _others(labels, {node.attrs["dim"]}), whole, reads=True)
    return [like(labels, node.output)]


@rule("sum", "mean", "amax", "amin", "max", "min", "var", "std")
def _reduce(flow: Flow, node: Node) -> list[Labels]:
    labels = flow.view_of_param(node, main_input(flow, node))
    if isinstance(argument(node, "dim"), (Value, ParamRef)):  # torch.max(x, y)
        return [elementwise(flow, node, [labels, flow.of(node.bound["dim"])])]
    given = node.attrs.get("dim")
    dims = set(range(len(labels.shape))) if given is None or given == () else set(given)
    lost = dims & set(labels.dims)
    if lost:
        if len(node.outputs) > 1:
            raise UnfollowedError(f"{node.where} returns positions of channels")
        whole = "" if node.op == "sum" else f"{node.where} reduces over the channels"
        flow.mark(node, labels.full, _others(labels, dims), whole, reads=True)
        if set(labels.dims) - dims:
            raise UnfollowedError(f"{node.where} reduces over a part of the channels")
        return [Labels(value.shape, reason=f"{node.where} reduced over the channels") for value in node.outputs]
    if not labels.followed:
        return [Labels(value.shape, reason=labels.reason) for value in node.outputs]
    if node.attrs.get("keepdim"):
        return [like(labels, value) for value in node.outputs]
    kept = tuple(d for d in range(len(labels.shape)) if d not in dims)
    shape = tuple(labels.shape[d] for d in kept)
    return [labels.moved(shape, kept) for _ in node.outputs]


@rule("glu")
def _glu(flow: Flow, node: Node) -> list[Labels]:
    labels, dim = main_input(flow, node), node.attrs["dim"]
    if dim not in labels.dims:
        return [like(labels, node.output)]
    first, second = np.split(labels.full, 2, axis=dim)
    shape = tuple(size // 2 if d == dim else size for d, size in enumerate(labels.shape))
    return [elementwise(flow, node, [Labels(shape, labels.dims, half) for half in (first, second)])]


@rule("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
def _filled(flow: Flow, node: Node) -> list[Labels]:
    fill = argument(node, "fill_value", 0)
    if isinstance(fill, (Value, ParamRef)):
        raise UnfollowedError(f"{node.where} fills with a tensor")
    if isinstance(fill, SizeRef) and flow.number(fill) != fill.example:
        raise UnfollowedError(f"{node.where} computes with the number of channels")
    if node.op.endswith("_like"):
        return [Labels(main_input(flow, node).shape, constant=True)]
    size = node.bound["size"]
    sizes = size if isinstance(size, (tuple, list)) else (size,)
    return [Labels(tuple(flow.number(item) for item in sizes), constant=True)]


@rule("fill", "zero")
def _fill(flow: Flow, node: Node) -> list[Labels]:
    if isinstance(argument(node, "value"), (Value, ParamRef)):
        raise UnfollowedError(f"{node.where} fills with a tensor")
    return [Labels(main_input(flow, node).shape, constant=True)]
