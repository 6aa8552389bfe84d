"""The Jacobian of several layers, step by step: activations and norms as scales, layers as they are, additions as sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from precut.graph import Graph, Node, Value
from precut.topology._layers import ELEMENTWISE, is_layer, is_plain, weight_of
from precut.topology._segments import Segment

__all__ = ["StepsMap", "steps_map"]


@dataclass(frozen=True)
class Step:
    """One linear operation.

    Attributes:
        reads, makes: ids of values; ``signs`` are the factors of what it reads.
        scale: (N, ...) of an elementwise operation; None for others.
        weight, options: of a layer; options are None for a linear one.
        in_shape, out_shape: of one sample.
    """

    reads: tuple[int, ...]
    makes: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    signs: tuple[int, ...] = (1,)
    scale: Tensor | None = None
    weight: Tensor | None = None
    options: tuple[object, ...] | None = None

    def forward(self, *vectors: Tensor) -> Tensor:
        """What it makes of (P, N, *in_shape) each."""
        first = vectors[0]
        if self.scale is not None:
            return first * self.scale
        if self.weight is None:
            total = sum(sign * vector for sign, vector in zip(self.signs, vectors, strict=True))
            assert isinstance(total, Tensor)
            return total.reshape(*first.shape[:2], *self.out_shape)
        if self.options is None:
            return F.linear(first, self.weight)
        made = F.conv2d(first.flatten(0, 1), self.weight, None, *self.options)  # type: ignore[call-overload]
        return made.unflatten(0, first.shape[:2])

    def transposed(self, vector: Tensor) -> list[Tensor]:
        """What it gives back to each of its inputs."""
        if self.scale is not None:
            return [vector * self.scale]
        if self.weight is None:
            back = vector.reshape(*vector.shape[:2], *self.in_shape)
            return [sign * back for sign in self.signs]
        if self.options is None:
            return [F.linear(vector, self.weight.T)]
        flat = vector.flatten(0, 1)
        made = conv2d_input([len(flat), *self.in_shape], self.weight, flat, *self.options)
        return [made.unflatten(0, vector.shape[:2])]


class StepsMap:
    """A batch of Jacobians, each the product (and sum) of its steps."""

    def __init__(self, steps: list[Step], reads: int, makes: int, like: Tensor) -> None:
        self.steps, self.reads, self.makes, self.weight = steps, reads, makes, like
        self.in_shape = next(step.in_shape for step in steps if reads in step.reads)
        self.out_shape = next(step.out_shape for step in steps if step.makes == makes)

    def forward(self, vectors: Tensor) -> Tensor:
        """J v: (P, N, *in_shape) to (P, N, *out_shape)."""
        found = {self.reads: vectors}
        for step in self.steps:
            found[step.makes] = step.forward(*(found[number] for number in step.reads))
        return found[self.makes]

    def transposed(self, vectors: Tensor) -> Tensor:
        """J^T v: (P, N, *out_shape) to (P, N, *in_shape)."""
        found = {self.makes: vectors}
        for step in reversed(self.steps):
            if step.makes not in found:
                continue
            for number, back in zip(step.reads, step.transposed(found.pop(step.makes)), strict=True):
                found[number] = found[number] + back if number in found else back
        return found[self.reads]

    def _changed(self, change: Callable[[Tensor], Tensor], weights: Callable[[Tensor], Tensor]) -> StepsMap:
        steps = [
            replace(
                step,
                scale=None if step.scale is None else change(step.scale),
                weight=None if step.weight is None else weights(step.weight),
            )
            for step in self.steps
        ]
        return StepsMap(steps, self.reads, self.makes, weights(self.weight))

    def of_sample(self, number: int) -> StepsMap:
        """The map of one sample alone."""
        return self._changed(lambda scale: scale[number : number + 1], lambda weight: weight)

    def double(self) -> StepsMap:
        """The same in float64."""
        return self._changed(torch.Tensor.double, torch.Tensor.double)

    def square(self) -> None:
        """There is no closed form."""
        return


def steps_map(segment: Segment, graph: Graph, point: Tensor) -> StepsMap | None:
    """The steps of a segment at ``point``; None where it holds an operation that is no step."""
    known: dict[int, Tensor] = {segment.reads.id: point}
    steps = []
    for node in segment.nodes:
        if len(node.outputs) != 1 or any(value.id not in known for value in node.inputs):
            return None
        step = _step(node, graph, known)
        if step is None:
            return None
        steps.append(step)
        with torch.no_grad():
            given = {value.id: known[value.id].clone() for value in node.inputs}
            known[node.output.id] = graph.compute((node,), given)[node.output.id]
    layers = [step.weight for step in steps if step.weight is not None]
    return StepsMap(steps, segment.reads.id, segment.makes.id, layers[0]) if layers else None


def _step(node: Node, graph: Graph, known: dict[int, Tensor]) -> Step | None:
    shapes = tuple(node.input.shape[1:]), tuple(node.output.shape[1:])
    ids = tuple(value.id for value in node.inputs)
    if is_layer(node):
        weight = weight_of(node)
        if weight is None or not is_plain(node):
            return None
        options = tuple(node.attrs[key] for key in ("stride", "padding", "dilation", "groups"))
        return Step(ids, node.output.id, *shapes, weight=weight, options=options if node.op == "conv2d" else None)
    if node.op in ELEMENTWISE and len(ids) == 1:
        with torch.enable_grad():
            x = known[ids[0]].detach().clone().requires_grad_()
            made = graph.compute((node,), {ids[0]: x.clone()})[node.output.id]
            (scale,) = torch.autograd.grad(made.sum(), x)
        return Step(ids, node.output.id, *shapes, scale=scale)
    if node.op in ("add", "sub") and node.attrs.get("alpha", 1) == 1 and _pair(node):
        first, second = (node.bound[role] for role in ("input", "other"))
        signs = (1, -1 if node.op == "sub" else 1)
        if node.bound.get("reverse"):
            first, second = second, first
        return Step((first.id, second.id), node.output.id, *shapes, signs=signs)
    if node.op == "flatten" and len(ids) == 1 and math.prod(shapes[0]) == math.prod(shapes[1]):
        return Step(ids, node.output.id, *shapes)
    return None


def _pair(node: Node) -> bool:
    """Whether two values of the result's shape are added."""
    both = [node.bound.get(role) for role in ("input", "other")]
    return all(isinstance(value, Value) and value.shape == node.output.shape for value in both)
