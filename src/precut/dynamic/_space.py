"""The space of a network's subnets: its dimensions, and the check of a point against them."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from precut.dynamic._blocks import Block, find_blocks
from precut.dynamic._classes import classes_of
from precut.dynamic._data import placed
from precut.dynamic._point import Point
from precut.errors import PrecutError, real, unknown, whole
from precut.graph import ChannelSpace, Graph
from precut.layers import SparseConv2d
from precut.supports import Periodic

__all__ = ["DIMS", "Space", "Width", "listed"]

DIMS = ("width", "depth", "resolution", "kernel")


@dataclass(frozen=True, eq=False)
class Width:
    """One width dimension: a ChannelSpace that can be cut to a prefix.

    Attributes:
        name: the first layer that makes its channels.
        size: channels of the full network.
        period: smaller widths are multiples of it, so that every residue class of the supports stays equally full.
        asker: the sparse layer that has this period; "" for period 1.
        channels: the ChannelSpace.
        classes: residue class of each channel.
    """

    name: str
    size: int
    period: int
    asker: str
    channels: ChannelSpace
    classes: Any


class Space:
    """What can be chosen in a captured network.

    Attributes:
        widths: width dimensions by name, in execution order.
        fixed: why other layers' channels cannot be cut, by layer.
        blocks: residual blocks that can be skipped, by name.
        kernels: largest kernel support size of the layers whose supports nest, by name.
        resizable: whether the input is one batch of square images, whose side can be chosen.
        id: fingerprint; points carry it.
    """

    def __init__(self, graph: Graph, dims: Iterable[str] = DIMS) -> None:
        self.graph = graph
        chosen = listed("dims", dims, "names")
        for name in chosen:
            if name not in DIMS:
                raise unknown("dimension", name, DIMS)
        self.widths: dict[str, Width] = {}
        self.fixed: dict[str, str] = {}
        self._aliases: dict[str, str] = {}
        modules = dict(graph.model.named_modules())
        for space in graph.spaces:
            self._add_width(space, modules, "width" in chosen)
        self.blocks: dict[str, Block] = find_blocks(graph) if "depth" in chosen else {}
        self.kernels: dict[str, int] = {}
        if "kernel" in chosen:
            self.kernels = {name: maker.kss for name, module in modules.items() if (maker := _nested(module))}
        shape = graph.inputs[0].shape if len(graph.inputs) == 1 else ()
        images = len(shape) == 4 and shape[2] == shape[3]
        self.resizable = "resolution" in chosen and images
        self.side = int(graph.inputs[0].shape[-1]) if images else None
        if not (self.widths or self.blocks or self.kernels):
            reasons = "; ".join(f"layer {name!r}: {why}" for name, why in list(self.fixed.items())[:4])
            raise PrecutError(f"nothing in this network can be made smaller: {reasons or 'it has no layers'}")
        self.id = self._fingerprint()
        self._sides: set[int] = set() if self.side is None else {self.side}

    def _add_width(self, space: ChannelSpace, modules: Mapping[str, Any], wanted: bool) -> None:
        owners = [place.owner for place in space.occurrences if place.axis == "out" and place.owner in modules]
        if not owners:
            return
        if space.undroppable is not None or not wanted:
            for owner in owners:
                self.fixed.setdefault(owner, space.undroppable or "width is not among dims")
            return
        name, number = owners[0], 2
        while name in self.widths:
            name, number = f"{owners[0]}#{number}", number + 1
        classes, period, asker = classes_of(space, modules)
        self.widths[name] = Width(name, space.size, min(period, space.size), asker, space, classes)
        for owner in owners:
            self._aliases.setdefault(owner, name)

    def _fingerprint(self) -> str:
        told = [
            [[width.name, width.size, width.period] for width in self.widths.values()],
            [[block.name, block.tail] for block in self.blocks.values()],
            list(self.kernels.items()),
            self.resizable,
        ]
        return f"{zlib.crc32(json.dumps(told).encode()):08x}"

    @property
    def full(self) -> Point:
        """The whole network."""
        return Point(self.id, tuple((name, width.size) for name, width in self.widths.items()))

    def point(
        self,
        width: float = 1.0,
        *,
        widths: Mapping[str, int] | None = None,
        skip: Iterable[str] = (),
        resolution: int | None = None,
        kss: int | Mapping[str, int] | None = None,
        align: int = 1,
    ) -> Point:
        """A point made by hand.

        Args:
            width: share of every width dimension, rounded to the nearest multiple (at least one) of ``align`` and the
                dimension's period.
            widths: channels by dimension, or by any layer that makes its channels; the others follow ``width``.
            skip: names of residual blocks to leave out.
            resolution: side of the images in pixels.
            kss: kernel support size of the layers whose supports nest: for all (those with fewer keep theirs), or by
                layer.
            align: see ``width``.

        Raises:
            PrecutError: for names that the space does not have, and sizes that do not fit.
        """
        width = real("width", width, above=0, most=1, what="share of the full widths")
        sizes = {name: self.scaled(dim, width, whole("align", align)) for name, dim in self.widths.items()}
        given: dict[str, str] = {}
        if widths is not None and not isinstance(widths, Mapping):
            raise PrecutError(f"widths is a mapping, {{dimension: channels}}; got {widths!r:.80}")
        for name, size in (widths or {}).items():
            dimension = self._dimension(name)
            if given.setdefault(dimension, name) != name:
                raise PrecutError(
                    f"{given[dimension]!r} and {name!r} are the same dimension: their channels are coupled"
                )
            sizes[dimension] = whole(f"the width of {dimension!r}", size)
        skipped = listed("skip", skip, "names of residual blocks")
        for name in skipped:
            if not isinstance(name, str) or name not in self.blocks:
                raise unknown("residual block that can be skipped", name, self.blocks, "dyn.space.blocks")
        fewer: dict[str, int] = {}
        if isinstance(kss, Mapping):
            fewer = {name: whole(f"kss of layer {name!r}", size) for name, size in kss.items()}
        elif kss is not None:
            if not self.kernels:
                raise PrecutError(f"kss={kss!r}: no layer has nested supports (Periodic(..., nested=True))")
            size = whole("kss", kss)
            fewer = {name: size for name, most in self.kernels.items() if size < most}
        made = Point(
            self.id,
            tuple(sizes.items()),
            tuple(set(skipped)),
            None if resolution is None else whole("resolution", resolution),
            tuple((name, size) for name, size in fewer.items() if size != self.kernels.get(name)),
        )
        return self.check(made)

    def scaled(self, dim: Width, share: float, align: int) -> int:
        """A share of a dimension, rounded to a width that it can have."""
        unit = self.unit(dim, align)
        if share == 1 or unit >= dim.size:
            return dim.size
        return min(dim.size, max(unit, int(dim.size * share / unit + 0.5) * unit))

    def unit(self, dim: Width, align: int) -> int:
        """The step of a dimension's widths: the least multiple of ``align`` and its period; where that is no less than
        the whole, ``align`` is halved until it is."""
        while align > 1 and math.lcm(align, dim.period) >= dim.size:
            align //= 2
        return math.lcm(align, dim.period)

    def _dimension(self, name: str) -> str:
        if name in self.widths:
            return name
        if name in self._aliases:
            return self._aliases[name]
        if name in self.fixed:
            raise PrecutError(f"the channels of layer {name!r} cannot be cut: {self.fixed[name]}")
        raise unknown("width dimension", name, self.widths, "dyn.space.widths")

    def check(self, point: Any) -> Point:
        """The point, if it is one of this space.

        Raises:
            PrecutError: a point of another network, a width above the maximum or between residue classes, an unknown
                block or layer, or a resolution that the network cannot take.
        """
        if not isinstance(point, Point):
            raise PrecutError(
                f"expected a Point (dyn.point(...), dyn.ladder(...)); got {type(point).__name__} {point!r:.60}"
            )
        names = [name for name, _ in point.widths]
        if point.space != self.id or names != sorted(self.widths):
            raise PrecutError(
                f"this point belongs to another network (its space is {point.space!r}, this one's {self.id!r}): make "
                "points with this network's point() or ladder()"
            )
        for name, size in point.widths:
            dim = self.widths[name]
            whole(f"the width of {name!r}", size, 1)
            if size > dim.size:
                raise PrecutError(f"the width of {name!r} is at most {dim.size}; got {size}")
            if size != dim.size and size % dim.period:
                near = max(dim.period, round(size / dim.period) * dim.period)
                raise PrecutError(
                    f"the width of {name!r} must be a multiple of {dim.period}, or {dim.size}: layer {dim.asker!r} has a "
                    f"support of that period; got {size}, the nearest is {min(near, dim.size)}"
                )
        for name in point.skipped:
            if name not in self.blocks:
                raise unknown("residual block that can be skipped", name, self.blocks, "dyn.space.blocks")
        for name, size in point.kss:
            if name not in self.kernels:
                raise unknown("layer with nested supports", name, self.kernels, "dyn.space.kernels")
            whole(f"kss of layer {name!r}", size, 1, self.kernels[name])
        if point.resolution is not None:
            self._check_side(point.resolution)
        return point

    def _check_side(self, side: int) -> None:
        if not self.resizable:
            raise PrecutError(
                f"resolution={side!r}: this network's input is no batch of square images, or resolution is not among dims"
            )
        if whole("resolution", side) in self._sides:
            return
        example = self.graph.inputs[0]
        assert self.side is not None
        model, was = self.graph.model, self.graph.model.training
        image = placed(model, torch.zeros(1, example.shape[1], side, side, dtype=example.dtype))
        try:
            with torch.no_grad():
                model.eval()(image)
        except (RuntimeError, ValueError, PrecutError) as error:
            raise PrecutError(f"this network cannot take images of {side} pixels: {error}") from None
        finally:
            model.train(was)
        self._sides.add(side)


def listed(name: str, given: Any, what: str) -> list[Any]:
    """One name or point, or several, as a list."""
    if isinstance(given, (str, Point)):
        return [given]
    if not isinstance(given, Iterable):
        raise PrecutError(f"{name} is one or several {what}; got {given!r:.80}")
    return list(given)


def _nested(module: Any) -> Periodic | None:
    """The layer's maker, where its smaller supports lie within it."""
    maker = module.support.maker if isinstance(module, SparseConv2d) else None
    if isinstance(maker, Periodic) and maker.kss > 1 and (maker.nested or maker.variants is not None):
        return maker
    return None
