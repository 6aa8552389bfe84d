"""Exact batch-norm statistics of a subnet: those of all data as one batch, whatever the batches.

Averaging the variances of batches drops the variance between them, and normalising one batch by its own statistics makes
the next layer's depend on how the data was divided. So all batches go through the network in step: at each batch norm
their counts, means and sums of squares are pooled (the law of total variance), and the pooled ones normalise them all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from precut.dynamic._data import batches_of, placed
from precut.dynamic._net import resized
from precut.dynamic._norms import batch_norms
from precut.dynamic._point import Point
from precut.dynamic._space import listed
from precut.errors import PrecutError, whole
from precut.graph import Graph, Node, ParamRef, SizeRef, Value, capture, leaves, rebuild

if TYPE_CHECKING:
    from precut.dynamic._net import DynamicNet

__all__ = ["pooled_statistics", "recalibrate"]

Statistics = dict[str, tuple[torch.Tensor, torch.Tensor]]


def recalibrate(
    dyn: DynamicNet, points: Iterable[Point] | Point, data: Any, images: int = 2000, batch_size: int = 250
) -> None:
    """Measures the batch-norm statistics of points; they are calibrated then.

    They equal those of one batch of all the images, however these are divided into batches. Activations of all images
    are held at once, a few layers' worth: take fewer images where memory is short.

    Args:
        points: one, or several.
        data: a Dataset (its first training images, not augmented), a tensor of images, or batches of them (with labels
            or without).
        images: how many to take, at most.
        batch_size: of a Dataset or a tensor.

    Raises:
        PrecutError: without data, with activations that are not finite, or with batch norms that are called as
            functions.
    """
    chosen = listed("points", points, "points")
    whole("images", images)
    whole("batch_size", batch_size)
    if data is None:
        raise PrecutError("recalibrate needs data: a Dataset, a tensor of images, or batches of them; got None")
    for point in chosen:
        dyn.space.check(point)
    if len(dyn.graph.inputs) != 1:
        raise PrecutError(f"recalibrate knows networks of one input; this one has {len(dyn.graph.inputs)}")
    held = [placed(dyn.model, item) for item, _ in batches_of(data, images, batch_size, "recalibrate")]
    for point in chosen:
        given = held if point.resolution is None else [resized((item,), point.resolution)[0] for item in held]
        net = dyn.extract(point, uncalibrated=True)
        found = pooled_statistics(net, given)
        for name, pair in found.items():
            if not all(bool(torch.isfinite(values).all()) for values in pair):
                raise PrecutError(f"recalibrate: what reaches batch norm {name!r} is not finite; look at the images")
        dyn.take_statistics(point, found, len(given))


@torch.no_grad()
def pooled_statistics(net: nn.Module, batches: Sequence[torch.Tensor]) -> Statistics:
    """Batch norm's name to (mean, variance) of its input over all of ``batches``, in the model's dtype.

    The variance is the one that torch keeps, divided by n - 1. Everything else runs in eval mode. A batch norm that is
    called several times gets the mean over its calls, as torch's cumulative average does.

    Args:
        net: takes one tensor. It is not changed.
    """
    net = copy.deepcopy(net).eval()
    norms = {name for name, _ in batch_norms(net)}
    graph = capture(net, batches[0][:1])
    for node in graph.nodes:
        if node.op == "batch_norm" and node.module is None:
            raise PrecutError(f"{node.where} is called as a function: use nn.BatchNorm2d, whose statistics are known")
    runs = [_Run(graph, net, batch) for batch in batches]
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for node in graph.nodes:
        if node.op == "batch_norm":  # also those that normalise by the batch alone: all batches are one
            module: Any = node.module
            mean, biased, unbiased = _pool([run.argument(node) for run in runs])
            if node.path in norms:
                like = module.running_mean
                found.setdefault(node.path, []).append((mean.to(like), unbiased.to(like)))
            for run in runs:
                run.put(node, _normalised(module, run.argument(node), mean, biased))
        else:
            for run in runs:
                run.step(node)
        for run in runs:
            run.forget(node)
    return {
        name: (torch.stack([mean for mean, _ in pairs]).mean(0), torch.stack([var for _, var in pairs]).mean(0))
        for name, pairs in found.items()
    }


def _pool(parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, biased and unbiased variance over all but dimension 1 of all parts together; float64."""
    count = 0
    mean = torch.zeros((), dtype=torch.float64)
    squares = torch.zeros((), dtype=torch.float64)  # sums of squared distances from the mean
    for part in parts:
        dims = [dim for dim in range(part.ndim) if dim != 1]
        n = part.numel() // part.shape[1]
        variance, own = torch.var_mean(part.double(), dims, correction=0)
        delta = own - mean
        squares = squares + variance * n + delta.square() * (count * n / (count + n))
        mean = mean + delta * (n / (count + n))
        count += n
    if count < 2:
        raise PrecutError("recalibrate needs more than one value a channel; give more images")
    return mean, squares / count, squares / (count - 1)


def _normalised(module: _BatchNorm, x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return nn.functional.batch_norm(
        x, mean.to(x), variance.to(x), module.weight, module.bias, training=False, eps=module.eps
    )


class _Run:
    """One batch on its way through a graph."""

    def __init__(self, graph: Graph, net: nn.Module, batch: torch.Tensor) -> None:
        self.net = net
        self.env: dict[int, torch.Tensor] = {graph.inputs[0].id: batch}
        self.shapes: dict[int, torch.Size] = {graph.inputs[0].id: batch.shape}
        self.constants = graph.constants
        last = {value.id: node.index for node in graph.nodes for value in (*node.inputs, *node.outputs)}
        self.ends: dict[int, list[int]] = {}
        for number, index in last.items():
            self.ends.setdefault(index, []).append(number)

    def _fill(self, leaf: Any) -> Any:
        if isinstance(leaf, Value):
            return self.env[leaf.id]
        if isinstance(leaf, ParamRef):
            if leaf.kind == "constant":
                return self.constants[leaf.name]
            path, _, attribute = leaf.name.rpartition(".")
            return getattr(self.net.get_submodule(path), attribute)
        return leaf.resolve(self.shapes) if isinstance(leaf, SizeRef) else leaf

    def argument(self, node: Node) -> torch.Tensor:
        return self.env[node.input.id]

    def put(self, node: Node, result: torch.Tensor) -> None:
        self.env[node.output.id] = result
        self.shapes[node.output.id] = result.shape

    def step(self, node: Node) -> None:
        args, kwargs = rebuild(node.args, self._fill), rebuild(node.kwargs, self._fill)
        function: Any = self.net.get_submodule(node.path).forward if node.module is not None else node.function
        result = function(*args, **kwargs)
        for place, tensor in zip(leaves(node.result), leaves(result), strict=True):
            if isinstance(place, Value):
                self.env[place.id], self.shapes[place.id] = tensor, tensor.shape
        for before, after in node.writes:
            self.env[after.id], self.shapes[after.id] = self.env[before.id], self.shapes[before.id]

    def forget(self, node: Node) -> None:
        for number in self.ends.get(node.index, ()):
            self.env.pop(number, None)
