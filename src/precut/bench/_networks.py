"""The networks of a benchmark, by name: dense, narrower, of a support, or with random masks; and chains of one layer."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from precut.errors import PrecutError
from precut.layers import from_masks, ignored_names, sparse_like, sparsify
from precut.measure import compare_latency
from precut.models import create_model
from precut.pruning import prune
from precut.supports import parse

__all__ = ["chained", "layer_chain", "network", "registered"]

_CHAIN = 6  # distinct weights, so that no layer's are left in the cache by the one before
_PARTS = 32  # widths that narrowing tries are multiples of 1 / _PARTS
_ROUNDS = 9  # in which it compares them
_PRUNED: dict[str, dict[str, Any]] = {  # masks of whole networks, which need no data
    "synflow": {"score": "synflow", "rounds": 100},
    "erk": {"score": "random", "allocation": "erdos-renyi-kernel"},
}


def registered(model: str, **kwargs: Any) -> Callable[[float], nn.Module]:
    """A builder of a registered model by width multiplier, on the same seed."""
    if "width_mult" in kwargs:
        raise PrecutError("width_mult is set by a network's name (width:0.5), not among the model's arguments")

    def build(width: float) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return create_model(model, width_mult=width, **kwargs).eval()

    return build


def layer_chain(text: str) -> nn.Module:
    """Convolutions of one shape with ReLU between: six of them for ``64@32`` (channels @ side of the maps), one with
    stride 2 for ``64-128@32`` (input - output channels @ side)."""
    found = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?@([1-9]\d*)", text)
    if not found:
        raise PrecutError(f"a layer is written like 64@32 or, with stride 2, 64-128@32; got {text!r}")
    first, last = int(found[1]), int(found[2] or found[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts: list[nn.Module] = []
        for _ in range(1 if found[2] else _CHAIN):
            parts += [nn.Conv2d(first, last, 3, 2 if found[2] else 1, 1, bias=False), nn.ReLU()]
    return nn.Sequential(*parts).eval()


def chained(text: str) -> Callable[[float], nn.Module]:
    """A builder of :func:`layer_chain` for :func:`network`; a chain has one width, that of its text."""

    def build(width: float) -> nn.Module:
        if width != 1.0:
            raise PrecutError(f"width: and narrow: are for models; the chain {text} has the channels of its name alone")
        return layer_chain(text)

    return build


def _sparse(model: nn.Module, name: str) -> nn.Module:
    """``sparsify``, which leaves a network's first convolution dense; of a chain it is one of those that are meant."""
    if not isinstance(model, nn.Sequential) or name == "dense":
        return sparsify(model, name).eval()
    maker = parse(name)
    for number, layer in enumerate(model):
        if isinstance(layer, nn.Conv2d):
            model[number] = sparse_like(layer, maker.for_layer(number).support(layer.weight.shape))
    return model.eval()


def _masked(model: nn.Module, density: float) -> nn.Module:
    """Each convolution that a support would make sparse keeps a uniformly random part of its weights."""
    generator = torch.Generator().manual_seed(0)
    ignored = ignored_names(model, ())
    convolutions = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    if not isinstance(model, nn.Sequential):  # a network's first one stays dense, as with a support
        del convolutions[:1]
    for name, layer in convolutions:
        if layer.kernel_size != (1, 1) and name not in ignored:
            kept = max(1, round(density * layer.weight.numel()))
            mask = torch.zeros(layer.weight.numel())
            mask[torch.randperm(len(mask), generator=generator)[:kept]] = 1
            torch_prune.custom_from_mask(layer, "weight", mask.view_as(layer.weight))
    return from_masks(model)


def network(
    name: str, build: Callable[[float], nn.Module], x: torch.Tensor, threads: int, say: Callable[[str], None]
) -> tuple[str, nn.Module]:
    """The network of a name, with the name that the table shows.

    Args:
        name: ``dense``; a support (``PS4_P4``); ``mask:0.05`` (random masks of that density on the layers that supports
            make sparse); ``synflow:0.05`` and ``erk:0.05`` (the whole network pruned to that density, by SynFlow in 100
            rounds, or at random with Erdos-Renyi-kernel densities); ``width:0.5`` (dense, a width multiplier);
            ``narrow:PSD1_P16`` (dense, narrowed until it takes as long as the support's network on this engine:
            measured here, quickly).
        build: the dense network by width multiplier.
        x, threads: what the narrowing measures on.
        say: told what goes on.
    """
    kind, _, value = name.partition(":")
    if kind in ("mask", "width", *_PRUNED):
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= (16 if kind == "width" else 1):
            raise PrecutError(f"{kind}: takes a number above 0, such as {kind}:0.5; got {name!r}")
        if kind in _PRUNED:
            return name, prune(build(1.0), density=number, example_inputs=x, **_PRUNED[kind])[0].eval()
        return (name, _masked(build(1.0), number)) if kind == "mask" else (name, build(number))
    if kind == "narrow":
        width = _narrowed(_sparse(build(1.0), value), build, x, threads, say)
        return f"width:{width:.3g}={value}", build(width)
    return name, _sparse(build(1.0), name)


def _narrowed(
    model: nn.Module, build: Callable[[float], nn.Module], x: torch.Tensor, threads: int, say: Callable[[str], None]
) -> float:
    """The widest of the measured widths (multiples of 1/32) that is at most as slow as the model. Not by bisection: odd
    channel counts make a narrower network slower than a wider one."""
    from precut.engine import compile

    compiled = compile(model.eval(), x, threads=threads)

    def widest(parts: range, least: int) -> int:
        rivals = {"model": compiled}
        for part in parts:
            rivals[str(part)] = compile(build(part / _PARTS), x, threads=threads)
        seconds = {
            name: statistics.median(times)
            for name, times in compare_latency(rivals, x, threads, _ROUNDS).seconds.items()
        }
        for part in parts:
            say(f"width {part / _PARTS:.3f}: {seconds[str(part)] * 1e3:.3f} ms; wanted {seconds['model'] * 1e3:.3f} ms")
        return max((part for part in parts if seconds[str(part)] <= seconds["model"]), default=least)

    coarse = widest(range(4, _PARTS, 4), 0)
    return widest(range(coarse + 1, coarse + 4), max(coarse, 1)) / _PARTS
