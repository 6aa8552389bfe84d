"""Layers and norms in the linearised network: absolute weights, positive scales, no biases."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from precut.errors import PrecutError
from precut.graph import Node, Value
from precut.pruning._linear import Flow, Linear
from precut.pruning._linear_rules import first_flow, rule
from precut.pruning._matmul import Weight, conv2d, linear, suits

__all__ = ["everywhere"]


def _weight_of(run: Linear, node: Node) -> Weight:
    """The layer's absolute weight."""
    if "weight" not in node.params or (node.module is None and isinstance(node.bound.get("weight"), Value)):
        raise PrecutError(f"{node.where} computes its weight while it runs, which cannot be linearised")
    held = node.params["weight"][1]
    if node.module is not None and hasattr(node.module, "dense_weight"):
        if id(held) not in run.weights:
            dense = node.module.dense_weight().detach().double().abs()  # type: ignore[operator]
            run.weights[id(held)] = Weight((dense > 0).double() if run.mode.paths else dense)
        return run.weights[id(held)]
    return run.weight(held)


def _with_bias(run: Linear, node: Node, made: torch.Tensor, dim: int) -> torch.Tensor:
    if not run.mode.constants or "bias" not in node.params:
        return made
    bias = (node.params["bias"][1].detach() != 0).double()
    return made + bias.view(-1, *[1] * (made.ndim - 1 - dim))


@rule("linear")
def _linear(run: Linear, node: Node) -> Flow:
    flow = first_flow(run, node)
    made = linear(flow.tensor, _weight_of(run, node))
    return run.settled(_with_bias(run, node, made, made.ndim - 1), flow.exponent)


@rule("conv1d conv2d conv3d")
def _conv(run: Linear, node: Node) -> Flow:
    flow, weight = first_flow(run, node), _weight_of(run, node)
    x, attrs = flow.tensor, node.attrs
    spatial = int(node.op[-2])
    padding = attrs.get("padding", 0)
    mode = attrs.get("padding_mode", "zeros")
    if mode != "zeros" or isinstance(padding, str):
        before = _paddings(padding, attrs, weight.value.shape[2:])
        x = F.pad(x, before, mode="constant" if mode == "zeros" else mode)
        padding = (0,) * spatial
    stride, dilation, groups = attrs["stride"], attrs["dilation"], attrs.get("groups", 1)
    if spatial == 2 and suits(x, groups, padding):
        made = conv2d(x, weight, stride, padding, dilation)
    else:
        function = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
        made = function(x, weight.leaf(), None, stride, padding, dilation, groups)
    return run.settled(_with_bias(run, node, made, made.ndim - 1 - spatial), flow.exponent)


def _paddings(padding: Any, attrs: dict[str, Any], kernel: tuple[int, ...]) -> list[int]:
    """For F.pad: last dimension first, before and after."""
    pairs: list[tuple[int, int]] = []
    for dim, size in enumerate(kernel):
        if padding == "valid":
            pairs.append((0, 0))
        elif padding == "same":
            whole = attrs["dilation"][dim] * (size - 1)
            pairs.append((whole // 2, whole - whole // 2))
        else:
            pairs.append((padding[dim], padding[dim]))
    return [side for pair in reversed(pairs) for side in pair]


@rule("conv_transpose1d conv_transpose2d conv_transpose3d")
def _conv_transpose(run: Linear, node: Node) -> Flow:
    flow, attrs = first_flow(run, node), node.attrs
    spatial = int(node.op[-2])
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
    extra = attrs["output_padding"]
    if len(node.inputs) and node.module is not None and (len(node.args) > 1 or "output_size" in node.kwargs):
        raise PrecutError(
            f"{node.where} is called with output_size, which is not followed; give the module output_padding"
        )
    made = function(
        flow.tensor, _weight_of(run, node).leaf(), None, attrs["stride"], attrs["padding"], extra,
        attrs.get("groups", 1), attrs["dilation"],
    )  # fmt: skip
    return run.settled(_with_bias(run, node, made, made.ndim - 1 - spatial), flow.exponent)


def _tensor(run: Linear, node: Node, role: str) -> torch.Tensor | None:
    found = node.params.get(role)
    return None if found is None else found[1].detach().double()


@rule("batch_norm group_norm layer_norm rms_norm instance_norm normalize local_response_norm")
def _norm(run: Linear, node: Node) -> Flow:
    flow = first_flow(run, node)
    x = flow.tensor
    gamma, variance = _tensor(run, node, "weight"), _tensor(run, node, "running_var")
    if run.mode.paths:
        made = x
        if run.mode.constants:
            made = _with_shift(run, node, x, gamma, variance)
        return Flow(made, 0, flow.gate)
    factor = torch.ones((), dtype=torch.float64, device=x.device)
    if gamma is not None:
        factor = gamma.abs()
    if variance is not None and node.op in ("batch_norm", "instance_norm"):
        eps = node.attrs.get("eps", 1e-5)
        factor = factor * (variance + eps).rsqrt()
    if factor.ndim and not bool(factor.any()):
        run.note(f"{node.name} multiplies everything by 0, so no flow is seen through it")
    return run.settled(x * _along(run, node, factor, x), flow.exponent, flow.gate)


def _along(run: Linear, node: Node, factor: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A norm's factors, so that they broadcast."""
    if node.op in ("layer_norm", "rms_norm") or not factor.ndim:
        return factor
    return factor.view(-1, *[1] * (x.ndim - 2)) if x.ndim > 1 else factor


def _with_shift(
    run: Linear, node: Node, x: torch.Tensor, gamma: torch.Tensor | None, variance: torch.Tensor | None
) -> torch.Tensor:
    """``x`` with ones where a norm makes something of nothing, or makes something of other channels."""
    if node.op != "batch_norm" or variance is None:
        return everywhere(x)
    beta, mean = _tensor(run, node, "bias"), _tensor(run, node, "running_mean")
    if mean is None:
        return everywhere(x)
    eps = node.attrs.get("eps", 1e-5)
    shift = -mean * (variance + eps).rsqrt() * (1 if gamma is None else gamma) + (0 if beta is None else beta)
    return x + _along(run, node, (shift != 0).double(), x)


def everywhere(x: torch.Tensor) -> torch.Tensor:
    """Ones, which depend on all of ``x``."""
    return torch.ones_like(x) + x.mean()
