"""Operations on one value in the linearised network: activations are nothing, rearrangements and pools stay."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from precut.graph import Node, leaves, rebuild
from precut.pruning._linear import Flow, Linear, scaled
from precut.pruning._linear_layers import everywhere
from precut.pruning._linear_rules import called, first_flow, rule

__all__: list[str] = []

_ACTIVATIONS = (
    "relu relu6 hardtanh leaky_relu prelu elu celu selu gelu silu mish hardswish tanhshrink softshrink hardshrink "
    "threshold torch._threshold torch.rrelu clamp torch.clamp_min torch.clamp_max dropout dropout1d dropout2d dropout3d "
    "alpha_dropout feature_alpha_dropout identity clone detach contiguous to float double half abs neg square pow sqrt exp "
    "log round floor ceil sin sign erf log_softmax"
)
_GATES = "sigmoid hardsigmoid tanh softsign softmax"  # bounded: the usual gates
_NOT_ZERO_AT_ZERO = (
    *("sigmoid", "hardsigmoid", "softplus", "logsigmoid", "softmax", "log_softmax", "threshold", "torch._threshold"),
    *("clamp", "torch.clamp_min", "torch.clamp_max", "exp", "cos", "pow", "reciprocal", "rsqrt", "log", "softsign"),
)
_MIXING = ("softmax", "log_softmax")
# Linear or homogeneous with non-negative factors: the operation itself, on the linearised values.
_KEPT = (
    "avg_pool1d avg_pool2d avg_pool3d lp_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate "
    "pixel_shuffle pixel_unshuffle channel_shuffle cat torch.hstack stack split chunk unbind getitem index_select narrow "
    "select flip roll torch.repeat torch.tile torch.unfold torch.fold view reshape flatten unflatten squeeze unsqueeze "
    "permute transpose movedim expand expand_as view_as sum mean amax amin max min maximum minimum"
)
_VIEWS = ("view", "reshape", "flatten", "unflatten", "view_as")


@rule(_ACTIVATIONS)
def _unary(run: Linear, node: Node) -> Flow:
    flow = first_flow(run, node)
    if run.mode.constants and node.op in _MIXING:
        return Flow(everywhere(flow.tensor), 0)
    attrs = node.attrs
    # A clamp from 0.5 to 2, say, makes 0.5 of nothing.
    clamps = node.op == "hardtanh" and not attrs.get("min_val", -1) <= 0 <= attrs.get("max_val", 1)
    if run.mode.constants and (clamps or node.op in _NOT_ZERO_AT_ZERO):
        return Flow(torch.ones_like(flow.tensor) + flow.tensor, 0)
    return flow


@rule(_GATES + " softplus logsigmoid cos reciprocal rsqrt")
def _bounded(run: Linear, node: Node) -> Flow:
    flow = _unary(run, node)
    return Flow(flow.tensor, flow.exponent, node.op in _GATES.split())


@rule("gt lt ge le eq ne torch.masked_fill")
def _chosen(run: Linear, node: Node) -> Flow:
    """A comparison, and what is made by one: of a product of the two the comparison is the gate."""
    flows = [flow for value in node.inputs if isinstance(flow := run.flows[value.id], Flow)]
    made = flows[0].tensor
    if run.mode.paths:
        made = sum((flow.tensor for flow in flows[1:]), made)
    if run.mode.constants:
        made = torch.ones_like(made) + made
    return Flow(made, flows[0].exponent, node.op != "torch.masked_fill")


@rule("zeros_like ones_like new_zeros new_ones")
def _filled(run: Linear, node: Node) -> torch.Tensor:
    args, kwargs = run.arguments(node)
    like = first_flow(run, node).tensor
    args, kwargs = rebuild((args, kwargs), lambda leaf: like if isinstance(leaf, Flow) else leaf)
    made: torch.Tensor = called(run, node, args, kwargs)
    return made


@rule("pad")
def _pad(run: Linear, node: Node) -> Flow:
    flow = first_flow(run, node)
    attrs = node.attrs
    sides, mode = attrs["padding"], attrs.get("mode", "constant") or "constant"
    if isinstance(sides, int):
        sides = (sides,) * (2 * (flow.tensor.ndim - 2))
    value = 1.0 if run.mode.constants and attrs.get("value") else 0.0
    made = F.pad(flow.tensor, list(sides), mode=mode, **({"value": value} if mode == "constant" else {}))
    return Flow(made, flow.exponent, flow.gate)


@rule(_KEPT)
def _kept(run: Linear, node: Node) -> Any:
    """The operation itself. Flows that it joins are brought to one exponent."""
    args, kwargs = run.arguments(node)
    flows = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Flow)]
    exponent = max(flow.exponent for flow in flows)

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, Flow):
            tensor = scaled(leaf, exponent)
            # view() needs what contiguous(), which is nothing here, would have given it.
            return tensor.contiguous() if node.op in _VIEWS else tensor
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not run.mode.constants:
            return torch.zeros_like(leaf, dtype=torch.float64)  # a constant beside flows is a bias
        return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    args, kwargs = rebuild(args, plain), rebuild(kwargs, plain)
    made = _all_of(run, node, args, kwargs) if run.mode.paths else None
    if made is None:
        made = called(run, node, args, kwargs)
    gate = all(flow.gate for flow in flows)
    reduced = node.op in ("sum", "mean", "interpolate", "torch.fold") or "pool" in node.op

    def flowing(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return run.settled(leaf, exponent, gate) if reduced else Flow(leaf, exponent, gate)
        return leaf

    return rebuild(made, flowing)


def _all_of(run: Linear, node: Node, args: Any, kwargs: Any) -> Any:
    """For an operation that picks one of several numbers: one that takes all; None for another operation."""
    op, attrs = node.op, node.attrs
    tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    x = tensors[0]
    if op in ("maximum", "minimum") or (op in ("max", "min") and len(tensors) > 1):  # torch.max(x, y)
        return sum(tensors[1:], x)
    if op in ("amax", "amin", "max", "min"):
        dims = attrs.get("dim")
        if dims is None:
            return x.sum()
        total = x.sum(dims, bool(attrs.get("keepdim", False)))
        return (total, called(run, node, args, kwargs)[1]) if op in ("max", "min") else total
    if not op.startswith(("max_pool", "adaptive_max_pool")):
        return None
    spatial = int(op[-2])
    if op.startswith("adaptive"):
        made = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[spatial - 1](
            x, attrs["output_size"]
        )
    elif set(attrs["dilation"]) == {1}:
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
        made = pool(x, attrs["kernel_size"], attrs["stride"], attrs["padding"], bool(attrs.get("ceil_mode")))
    else:
        channels = x.shape[1]
        ones = x.new_ones(channels, 1, *attrs["kernel_size"])
        function = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
        made = function(x, ones, None, attrs["stride"], attrs["padding"], attrs["dilation"], channels)
    return (made, called(run, node, args, kwargs)[1]) if attrs.get("return_indices") else made
