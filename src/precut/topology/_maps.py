"""Jacobians as linear maps: products with them and their transposes, never diagonal matrices.

A map works on a batch of N samples, each with its own Jacobian, and on P vectors at once. All maps have:
``in_shape`` and ``out_shape`` of one sample; ``forward``, J v: (P, N, *in_shape) to (P, N, *out_shape); ``transposed``,
J^T v; ``of_sample(n)``, the map of one sample; ``square()``, (N,) squared Frobenius norms in closed form, or None.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from precut.graph import Graph, Node
from precut.topology._layers import ELEMENTWISE, is_plain, weight_of
from precut.topology._segments import Segment
from precut.topology._steps import StepsMap, steps_map

__all__ = ["AutogradMap", "Map", "ScaledConv", "ScaledLinear", "make_map"]

_RESHAPES = ("flatten",)


class ScaledLinear:
    """diag(after) W diag(before) for each sample, its diagonals kept as vectors (N, columns) and (N, rows)."""

    def __init__(self, weight: Tensor, before: Tensor, after: Tensor) -> None:
        self.weight, self.before, self.after = weight, before, after
        self.in_shape, self.out_shape = tuple(before.shape[1:]), tuple(after.shape[1:])

    def forward(self, vectors: Tensor) -> Tensor:
        return F.linear(vectors * self.before, self.weight) * self.after

    def transposed(self, vectors: Tensor) -> Tensor:
        return F.linear(vectors * self.after, self.weight.T) * self.before

    def of_sample(self, number: int) -> ScaledLinear:
        part = slice(number, number + 1)
        return ScaledLinear(self.weight, self.before[part], self.after[part])

    def double(self) -> ScaledLinear:
        """The same in float64."""
        return ScaledLinear(self.weight.double(), self.before.double(), self.after.double())

    def square(self) -> Tensor:
        return (F.linear(self.before.square(), self.weight.square()) * self.after.square()).sum(1)

    def matrices(self) -> Tensor:
        """(N, rows, columns): rows and columns of the weight, scaled."""
        return self.after.unsqueeze(2) * self.weight * self.before.unsqueeze(1)


class ScaledConv:
    """diag(after) C diag(before) for each sample, C a convolution; the diagonals have the maps' shapes."""

    def __init__(self, weight: Tensor, before: Tensor, after: Tensor, options: tuple[object, ...]) -> None:
        self.weight, self.before, self.after, self.options = weight, before, after, options
        self.in_shape, self.out_shape = tuple(before.shape[1:]), tuple(after.shape[1:])

    def forward(self, vectors: Tensor) -> Tensor:
        flat = (vectors * self.before).flatten(0, 1)
        made = F.conv2d(flat, self.weight, None, *self.options)  # type: ignore[call-overload]
        return made.unflatten(0, vectors.shape[:2]) * self.after

    def transposed(self, vectors: Tensor) -> Tensor:
        flat = (vectors * self.after).flatten(0, 1)
        made = conv2d_input([len(flat), *self.in_shape], self.weight, flat, *self.options)
        return made.unflatten(0, vectors.shape[:2]) * self.before

    def of_sample(self, number: int) -> ScaledConv:
        part = slice(number, number + 1)
        return ScaledConv(self.weight, self.before[part], self.after[part], self.options)

    def double(self) -> ScaledConv:
        """The same in float64."""
        return ScaledConv(self.weight.double(), self.before.double(), self.after.double(), self.options)

    def square(self) -> Tensor:
        made = F.conv2d(self.before.square(), self.weight.square(), None, *self.options)  # type: ignore[call-overload]
        return (made * self.after.square()).flatten(1).sum(1)


class AutogradMap:
    """Any differentiable segment, by automatic differentiation at ``point`` (N, ...)."""

    def __init__(self, segment: Segment, graph: Graph, point: Tensor) -> None:
        self.segment, self.graph, self.point = segment, graph, point
        self._made: tuple[int, Tensor, Tensor, Tensor, Tensor] | None = None
        self.in_shape = tuple(point.shape[1:])
        with torch.no_grad():
            self.out_shape = tuple(self._run(point[:1]).shape[1:])

    def _run(self, point: Tensor) -> Tensor:
        return self.graph.compute(self.segment.nodes, {self.segment.reads.id: point.clone()})[self.segment.makes.id]

    def _linearised(self, count: int) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
        """(count, u, y, w, J^T w as a function of w) for so many copies of the batch."""
        if self._made is None or self._made[0] != count:
            self._made = None
            with torch.enable_grad():
                u = self.point.repeat(count, *[1] * len(self.in_shape)).requires_grad_()
                y = self._run(u)
                w = torch.zeros_like(y, requires_grad=True)
                (g,) = torch.autograd.grad(y, u, w, create_graph=True)
            self._made = count, u, y, w, g
        return self._made

    def forward(self, vectors: Tensor) -> Tensor:
        # The derivative of J^T w by w is J: a second reverse pass multiplies by it, whatever the operations.
        _, _, _, w, g = self._linearised(len(vectors))
        (made,) = torch.autograd.grad(g, w, vectors.flatten(0, 1), retain_graph=True)
        return made.unflatten(0, vectors.shape[:2])

    def transposed(self, vectors: Tensor) -> Tensor:
        _, u, y, _, _ = self._linearised(len(vectors))
        (made,) = torch.autograd.grad(y, u, vectors.flatten(0, 1), retain_graph=True)
        return made.unflatten(0, vectors.shape[:2])

    def of_sample(self, number: int) -> AutogradMap:
        return AutogradMap(self.segment, self.graph, self.point[number : number + 1])

    def square(self) -> None:
        return None


Map = ScaledLinear | ScaledConv | StepsMap | AutogradMap


def make_map(segment: Segment, graph: Graph, point: Tensor) -> Map:
    """The Jacobian of a segment at ``point`` (N, ...), in the cheapest form that is exact."""
    layers = segment.layers
    if len(layers) == 1:
        scaled = _scaled(segment, graph, point, layers[0])
        if scaled is not None:
            return scaled
    steps = steps_map(segment, graph, point)
    if steps is not None:
        return steps
    return AutogradMap(segment, graph, point)


def _scaled(segment: Segment, graph: Graph, point: Tensor, layer: Node) -> ScaledLinear | ScaledConv | None:
    place = segment.nodes.index(layer)
    heads, tails = segment.nodes[:place], segment.nodes[place + 1 :]
    if any(node.op not in (*ELEMENTWISE, *_RESHAPES) or len(node.inputs) != 1 for node in (*heads, *tails)):
        return None
    if any(node.op in _RESHAPES for node in tails) or not is_plain(layer):
        return None
    weight = weight_of(layer)
    if weight is None:
        return None
    with torch.enable_grad():
        start = point.clone().requires_grad_()
        entering = graph.compute(heads, {segment.reads.id: start})[layer.input.id]
        (before,) = torch.autograd.grad(entering.sum(), start) if heads else (torch.ones_like(point),)
    before = before.reshape(entering.shape)
    with torch.no_grad():
        made = graph.compute((layer,), {layer.input.id: entering.detach().clone()})[layer.output.id]
    with torch.enable_grad():
        middle = made.detach().clone().requires_grad_()
        end = graph.compute(tails, {layer.output.id: middle.clone()})[segment.makes.id]
        (after,) = torch.autograd.grad(end.sum(), middle) if tails else (torch.ones_like(made),)
    if layer.op == "linear":
        return ScaledLinear(weight, before, after)
    options = tuple(layer.attrs[key] for key in ("stride", "padding", "dilation", "groups"))
    return ScaledConv(weight, before, after, options)
