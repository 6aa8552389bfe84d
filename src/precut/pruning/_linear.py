"""The linearised copy of a network, for SynFlow and for questions about paths, run node by node on ones.

Weights are absolute, biases and means zero, batch norms their positive scale, activations and dropout nothing,
multiplicative gates one; pools, additions, concatenations and rearrangements stay. What a network computes then is
homogeneous of degree one in every layer, so that flow is conserved, whatever it was trained to.

A value is a tensor and an exponent of two: wherever a layer would take numbers far from one, they are rescaled by a
power of two, exactly. A thousand layers overflow no more than one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from precut.errors import PrecutError, first_line
from precut.graph import Graph, Node, ParamRef, SizeRef, Value, leaves, rebuild
from precut.pruning._matmul import Weight

__all__ = ["Flow", "Linear", "Mode"]

_FAR = 64  # exponents; between rescalings a layer may multiply numbers by up to about 2 ** 900


@dataclass(frozen=True)
class Mode:
    """What is asked of the linearised network.

    Attributes:
        paths: only whether something flows: everything is 0 or 1, pools and maxima take all that they look at, the
            norms' scales count as one, gates are followed.
        constants: biases, means and activations of zero are sources as well: whether a number can differ from zero.
    """

    paths: bool = False
    constants: bool = False


class Flow:
    """A value of the linearised network: ``tensor * 2 ** exponent``. (No dataclass: those are walked as containers.)

    Attributes:
        gate: whether it comes from a bounded activation, and so is the likelier gate of a product.
    """

    __slots__ = ("exponent", "gate", "tensor")

    def __init__(self, tensor: torch.Tensor, exponent: int = 0, gate: bool = False) -> None:
        self.tensor, self.exponent, self.gate = tensor, exponent, gate


class _Binary(torch.autograd.Function):
    """1 where something is, 0 elsewhere; forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return (gradients[0] > 0).to(gradients[0].dtype)


class Linear:
    """One way of running the linearised network.

    Args:
        graph: the captured network.
        weights: parameters' identities to their absolute values; what is missing is taken from the model.
        mode: what is asked.

    Attributes:
        flows: after ``run``: value number to Flow (or a plain tensor, where nothing flows).
        notes: what had to be held fixed.
    """

    def __init__(self, graph: Graph, weights: Mapping[int, Weight], mode: Mode = Mode()) -> None:
        self.graph = graph
        self.weights = dict(weights)
        self.mode = mode
        self.flows: dict[int, Any] = {}
        self.notes: list[str] = []

    # ---- values ----------------------------------------------------------------------------------------------------

    def run(self) -> Flow:
        """The sum of everything that the network returns, as one number.

        Raises:
            PrecutError: for an operation that cannot be linearised; names it and its line.
        """
        try:
            return self._run(single=True)
        except (RuntimeError, ValueError, IndexError, TypeError):  # a model that takes no single image, or no batch
            try:
                return self._run(single=False)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                why = f"{type(error).__name__}: {first_line(error)}"
                raise PrecutError(f"the network cannot be run linearised, on ones: {why}") from error

    def _run(self, single: bool) -> Flow:
        from precut.pruning._linear_rules import apply

        self.flows = {}
        for value in self.graph.inputs:
            shape = (1, *value.shape[1:]) if single and len(value.shape) > 1 else value.shape
            ones = torch.ones(shape, dtype=torch.float64, device=self.device)
            self.flows[value.id] = (
                Flow(ones.requires_grad_()) if value.dtype.is_floating_point else ones.to(value.dtype)
            )
        for node in self.graph.nodes:
            result = apply(self, node)
            for place, made in zip(leaves(node.result), leaves(result), strict=True):
                if isinstance(place, Value):
                    self.flows[place.id] = made
            for before, after in node.writes:
                self.flows[after.id] = self.flows[before.id]
        ends = [flow for value in self.graph.outputs if isinstance(flow := self.flows[value.id], Flow)]
        if not ends:
            raise PrecutError("nothing flows from the model's inputs to its outputs: no result depends on an input")
        exponent = max(flow.exponent for flow in ends)
        total = sum((scaled(flow, exponent).sum() for flow in ends), ends[0].tensor.new_zeros(()))
        return Flow(total, exponent)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((parameter.device for parameter in self.graph.model.parameters()), torch.device("cpu"))

    def settled(self, tensor: torch.Tensor, exponent: int = 0, gate: bool = False) -> Flow:
        """A Flow with numbers near one (of 0 and 1, where only paths are asked for)."""
        if self.mode.paths:
            return Flow(_Binary.apply(tensor), 0, gate)
        highest = float(tensor.detach().amax()) if tensor.numel() else 0.0
        if 0 < highest < math.inf:
            power = math.frexp(highest)[1]
            if abs(power) > _FAR:
                return Flow(tensor * math.ldexp(1.0, -power), exponent + power, gate)
        return Flow(tensor, exponent, gate)

    def weight(self, parameter: torch.Tensor) -> Weight:
        """The absolute weight in place of a parameter of the model."""
        if id(parameter) not in self.weights:
            absolute = parameter.detach().double().abs()
            self.weights[id(parameter)] = Weight((absolute > 0).double() if self.mode.paths else absolute)
        return self.weights[id(parameter)]

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # ---- arguments -------------------------------------------------------------------------------------------------

    def constant(self, ref: ParamRef, absolute: bool = True) -> torch.Tensor:
        """A parameter, buffer or constant: a prunable weight as it stands here, others absolute and in float64 where they
        are floating, or as the model holds them."""
        if ref.kind == "constant":
            held = self.graph.constants[ref.name]
        else:
            path, _, attribute = ref.name.rpartition(".")
            held = getattr(self.graph.model.get_submodule(path), attribute)
        if id(held) in self.weights:
            return self.weights[id(held)].leaf()
        held = held.detach()
        return held.double().abs() if absolute and held.is_floating_point() else held

    def argument(self, leaf: Any, absolute: bool = True) -> Any:
        """What stands for a leaf of a node's arguments: a Flow, a tensor, or a plain thing."""
        if isinstance(leaf, Value):
            return self.flows[leaf.id]
        if isinstance(leaf, ParamRef):
            return self.constant(leaf, absolute)
        if isinstance(leaf, SizeRef):
            shapes = {
                key: tuple(item.tensor.shape if isinstance(item, Flow) else item.shape)
                for key, item in self.flows.items()
            }
            return leaf.resolve(shapes)
        return leaf

    def arguments(self, node: Node, absolute: bool = True) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments with Flows and tensors in place."""

        def place(leaf: Any) -> Any:
            return self.argument(leaf, absolute)

        return rebuild(node.args, place), rebuild(node.kwargs, place)


def scaled(flow: Flow, exponent: int) -> torch.Tensor:
    """The tensor of a flow as if it had ``exponent``."""
    if flow.exponent == exponent:
        return flow.tensor
    power = flow.exponent - exponent
    return flow.tensor * (math.ldexp(1.0, power) if power > -1074 else 0.0)
