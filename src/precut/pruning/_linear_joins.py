"""Sums and products of two values in the linearised network; of a product of two that depend on the input, one is a
gate and held at one."""

from __future__ import annotations

from typing import Any

import torch

from precut.errors import PrecutError
from precut.graph import Node, ParamRef, rebuild
from precut.pruning._linear import Flow, Linear, scaled
from precut.pruning._linear_rules import first_flow, rule

__all__: list[str] = []


def _two(run: Linear, node: Node) -> tuple[Any, Any]:
    """The two operands as Flows, tensors or numbers."""
    bound = rebuild(node.bound, run.argument)
    return bound["input"], bound["other"]


@rule("add sub")
def _add(run: Linear, node: Node) -> Flow:
    first, second = _two(run, node)
    if isinstance(first, Flow) and isinstance(second, Flow):
        exponent = max(first.exponent, second.exponent)
        total = scaled(first, exponent) + abs(node.attrs.get("alpha", 1)) * scaled(second, exponent)
        return run.settled(total, exponent)
    flow, constant = (first, second) if isinstance(first, Flow) else (second, first)
    if not isinstance(constant, torch.Tensor):
        if run.mode.constants and constant:
            return Flow(torch.ones_like(flow.tensor) + flow.tensor)
        return flow
    bias = (constant != 0).double() if run.mode.constants else torch.zeros_like(constant, dtype=torch.float64)
    return Flow(flow.tensor + bias, flow.exponent, flow.gate)


@rule("mul div")
def _mul(run: Linear, node: Node) -> Flow:
    first, second = _two(run, node)
    if isinstance(first, Flow) and isinstance(second, Flow):
        return _gated(run, node, first, second)
    divides = node.op == "div"
    flow, factor = (first, second) if isinstance(first, Flow) else (second, first)
    if isinstance(first, Flow) is False and divides:
        run.note(f"{node.where}: a divisor that depends on the input is held at one")
    elif run.mode.paths:
        if _trained(node):  # a layer scale that begins at zero, say
            return Flow(flow.tensor * torch.ones_like(factor, dtype=torch.float64), 0, flow.gate)
        factor = (factor != 0).double() if isinstance(factor, torch.Tensor) else float(factor != 0)
        return Flow(flow.tensor * factor, 0, flow.gate)
    factor = factor.double().abs() if isinstance(factor, torch.Tensor) else abs(factor)
    if _trained(node) and not bool(torch.as_tensor(factor).any()):
        run.note(f"{node.where} multiplies everything by 0, so no flow is seen through it")
    made = flow.tensor / factor if divides and isinstance(first, Flow) else flow.tensor * factor
    return run.settled(made, flow.exponent, flow.gate)


def _trained(node: Node) -> bool:
    """Whether a parameter of the model is one of the factors."""
    return any(isinstance(item, ParamRef) and item.kind == "parameter" for item in node.bound.values())


def _gated(run: Linear, node: Node, first: Flow, second: Flow) -> Flow:
    """A product of two values: one is the gate, which is held at one; where only paths are asked for, both count."""
    shape = torch.broadcast_shapes(first.tensor.shape, second.tensor.shape)
    if run.mode.constants:
        return run.settled(first.tensor + second.tensor)
    if run.mode.paths:
        some_first, some_second = (first.tensor > 0).double().detach(), (second.tensor > 0).double().detach()
        # A gate without any path from the input is a number, and lets pass; a value without one is nothing to gate.
        open_ = torch.ones_like(some_second) if second.gate else some_second
        other = torch.ones_like(some_first) if first.gate and not second.gate else some_first
        return run.settled(first.tensor * open_ + second.tensor * other)
    smaller = (first.tensor.numel() < second.tensor.numel(), second.tensor.numel() < first.tensor.numel())
    swap = (first.gate and not second.gate) or (first.gate == second.gate and smaller[0])
    main = second if swap else first
    run.note(f"gates are held at one: {node.where}; the layers that compute a gate get no score from synflow")
    return Flow(main.tensor.expand(shape), main.exponent, main.gate and (second if main is first else first).gate)


@rule("where")
def _where(run: Linear, node: Node) -> Flow:
    """Both of what may be taken."""
    bound = rebuild(node.bound, run.argument)
    items = [bound["input"], bound["other"], *([bound["condition"]] if run.mode.paths else [])]
    flows = [item for item in items if isinstance(item, Flow)]
    if not flows:  # either of two constants
        flows = [first_flow(run, node)]
        if not run.mode.constants:
            run.note(f"{node.where}: what is chosen by a value, but does not depend on it, gets no score from synflow")
            flows = [Flow(torch.zeros_like(flows[0].tensor))]
    exponent = max(flow.exponent for flow in flows)
    total = sum((scaled(flow, exponent) for flow in flows[1:]), scaled(flows[0], exponent))
    for item in items:
        if not isinstance(item, Flow):
            plain = torch.as_tensor(item, device=total.device)
            total = total + (plain != 0).double() * float(run.mode.constants)
    return run.settled(total, exponent)


@rule("glu")
def _glu(run: Linear, node: Node) -> Flow:
    flow = first_flow(run, node)
    dim = node.attrs.get("dim", -1)
    first, second = flow.tensor.chunk(2, dim)
    return _gated(run, node, Flow(first, flow.exponent), Flow(second, flow.exponent, True))


@rule("matmul")
def _matmul(run: Linear, node: Node) -> Flow:
    first, second = _two(run, node)
    if isinstance(first, Flow) and isinstance(second, Flow):
        if run.mode.paths:
            ones = torch.ones_like(first.tensor), torch.ones_like(second.tensor)
            return run.settled(torch.matmul(first.tensor, ones[1]) + torch.matmul(ones[0], second.tensor))
        run.note(f"gates are held at one: {node.where}")
        if first.gate or not second.gate:  # attention: what is attended to flows
            weights = torch.full_like(first.tensor, 1 / first.tensor.shape[-1])
            return run.settled(torch.matmul(weights, second.tensor), second.exponent)
        weights = torch.full_like(second.tensor, 1 / second.tensor.shape[-2])
        return run.settled(torch.matmul(first.tensor, weights), first.exponent)
    flow = first if isinstance(first, Flow) else second
    tensors = [item.tensor if isinstance(item, Flow) else item.double().abs() for item in (first, second)]
    return run.settled(torch.matmul(*tensors), flow.exponent)


@rule("lerp addcmul")
def _refused(run: Linear, node: Node) -> Flow:
    raise PrecutError(f"{node.where} cannot be linearised: what it does depends on values")
