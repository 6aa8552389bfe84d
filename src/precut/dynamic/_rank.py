"""How much each channel matters: one number a channel of every width dimension."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from precut._registry import Registry
from precut.dynamic._data import batches_of, placed
from precut.dynamic._space import Width
from precut.errors import PrecutError, unknown

if TYPE_CHECKING:
    from precut.dynamic._net import DynamicNet

__all__ = ["channel_scores", "ranks"]

_IMAGES, _BATCH = 512, 128

Rows = dict[str, torch.Tensor]  # layer to one number for each of its rows (output channels), float64
Rank = Callable[["DynamicNet", Any], Rows]
ranks: Registry[Rank] = Registry("rank", "precut.dynamic.ranks.names()")


def channel_scores(dyn: DynamicNet, rank: Any, data: Any = None) -> dict[str, torch.Tensor]:
    """Dimension to one score a channel (float64, CPU), comparable between dimensions.

    The layers that make a dimension's channels each give their scores, divided by the layer's mean (global ranking
    normalised by layer, as Yang et al., DAC 2020, rank coupled channels); these are averaged.

    Args:
        rank: a name of ``ranks``; or scores of your own, {dimension: one number a channel}, taken as they are.
        data: what "taylor" needs; see ``recalibrate``, with labels.

    Raises:
        PrecutError: an unknown rank, or one that cannot be told here.
    """
    if isinstance(rank, Mapping):
        for name in rank:
            if name not in dyn.space.widths:
                raise unknown("width dimension in rank", name, dyn.space.widths, "dyn.space.widths")
        return {name: _given(name, dim, rank) for name, dim in dyn.space.widths.items()}
    if not isinstance(rank, str):
        raise PrecutError(
            f"rank is a name of {', '.join(map(repr, ranks.names()))}, or scores by dimension; got {rank!r:.60}"
        )
    rows = ranks[rank](dyn, data)
    found = {}
    for name, dim in dyn.space.widths.items():
        parts = _parts(dim, rows, "param" if rank == "bn" else "out")
        if not parts and rank == "bn":
            parts = _parts(dim, _l1(dyn, None), "out")
        if not parts:
            raise PrecutError(f"rank={rank!r} tells nothing of dimension {name!r}; choose another rank")
        found[name] = torch.stack(parts).mean(0)
        if not bool(torch.isfinite(found[name]).all()):
            raise PrecutError(f"rank={rank!r} gives scores of dimension {name!r} that are not finite")
    return found


def _parts(dim: Width, rows: Rows, axis: str) -> list[torch.Tensor]:
    parts = []
    for place in dim.channels.occurrences:
        if place.axis == axis and place.owner in rows:
            scores = rows[place.owner][torch.from_numpy(place.positions)].sum(1)
            mean = scores.mean()
            parts.append(scores / mean if mean > 0 else torch.ones_like(scores))
    return parts


def _given(name: str, dim: Width, rank: Mapping[str, Any]) -> torch.Tensor:
    try:
        scores = torch.as_tensor(rank.get(name), dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        scores = torch.empty(0)
    if tuple(scores.shape) != (dim.size,) or not bool(torch.isfinite(scores).all()):
        raise PrecutError(
            f"rank needs {dim.size} scores of dimension {name!r}, finite numbers in one row; got {rank.get(name)!r:.60}"
        )
    return scores


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What has rows that make channels."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or hasattr(module, "dense_weight"):
            yield name, module


def _rows(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """(rows, weights of a row), float64, CPU, of a tensor shaped like the layer's dense weight."""
    weight = weight.detach().to("cpu", torch.float64)
    if getattr(layer, "transposed", False):  # (in, out / groups, ...)
        parts = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2)
        return parts.flatten(0, 1).flatten(1)
    return weight.flatten(1)


def _dense(layer: Any) -> torch.Tensor:
    made: torch.Tensor = layer.dense_weight() if hasattr(layer, "dense_weight") else layer.weight
    return made


@ranks.register("l1")
def _l1(dyn: DynamicNet, data: Any) -> Rows:
    return {name: _rows(layer, _dense(layer)).abs().sum(1) for name, layer in _layers(dyn.model)}


@ranks.register("l2")
def _l2(dyn: DynamicNet, data: Any) -> Rows:
    return {name: _rows(layer, _dense(layer)).square().sum(1).sqrt() for name, layer in _layers(dyn.model)}


@ranks.register("bn")
def _bn(dyn: DynamicNet, data: Any) -> Rows:
    """The absolute scales of batch norms (Liu et al., "Network Slimming", ICCV 2017); "l1" for channels without any."""
    return {
        name: module.weight.detach().abs().to("cpu", torch.float64)
        for name, module in dyn.model.named_modules()
        if isinstance(module, _BatchNorm) and module.affine
    }


def _weight_times_gradient(model: nn.Module) -> Rows:
    found = {}
    for name, layer in _layers(model):
        if layer.weight.grad is None:
            continue
        product = layer.weight.detach() * layer.weight.grad
        if hasattr(layer, "dense_weight"):
            with torch.no_grad():
                layer.weight.copy_(product)
            product = layer.dense_weight()
        found[name] = _rows(layer, product).sum(1)
    return found


@ranks.register("taylor")
def _taylor(dyn: DynamicNet, data: Any) -> Rows:
    """(sum over a row of w dL/dw)^2, the first-order change of the loss (Molchanov et al., CVPR 2019)."""
    model = copy.deepcopy(dyn.model).eval()
    for parameter in model.parameters():
        parameter.grad = None
        parameter.requires_grad_()
    for images, labels in batches_of(data, _IMAGES, _BATCH, "rank='taylor'"):
        if labels is None:
            raise PrecutError("rank='taylor' needs labelled data: batches (images, labels), or a Dataset")
        images, labels = placed(model, (images, labels))
        try:
            nn.functional.cross_entropy(model(images), labels, reduction="sum").backward()
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise PrecutError(
                f"rank='taylor' needs a network of one input that gives logits, and labels of its classes: {error}"
            ) from error
    return {name: scores.square() for name, scores in _weight_times_gradient(model).items()}


@ranks.register("synflow")
def _synflow(dyn: DynamicNet, data: Any) -> Rows:
    """sum over a row of |w| dR/d|w|, where R is the sum of the outputs of the network of absolute weights for an input
    of ones (Tanaka et al., NeurIPS 2020)."""
    model = copy.deepcopy(dyn.model).double().eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.abs_()
    for parameter in model.parameters():
        parameter.grad = None
        parameter.requires_grad_()
    ones = placed(model, [torch.ones(value.shape) for value in dyn.graph.inputs])
    try:
        result = model(*ones)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise PrecutError(f"rank='synflow' needs a network that takes floating-point tensors alone: {error}") from error
    if not isinstance(result, torch.Tensor):
        raise PrecutError(f"rank='synflow' needs a network that gives one tensor; got a {type(result).__name__}")
    result.sum().backward()
    return _weight_times_gradient(model)
