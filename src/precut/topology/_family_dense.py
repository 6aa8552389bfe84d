"""Families of networks with random links: for each depth the links follow from the mass in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precut.errors import PrecutError, whole
from precut.models import LEAST_DEPTH
from precut.models.random_densenet import is_small
from precut.topology._candidate import Candidate, Frame, several
from precut.topology._closed_form import cell_degree, cell_links, cell_mass

__all__ = ["DenseMlps", "RandomDenseNets"]

_DEEPEST = 40  # layers of a cell that are tried unless the caller says


def _depths(depths: Sequence[int] | None) -> list[int]:
    if depths is None:
        return list(range(LEAST_DEPTH, _DEEPEST + 1))
    return [whole("each of depths", depth, LEAST_DEPTH) for depth in several("depths", depths)]


def _nearest(target: float, widths: Sequence[int], depth: int, shares: Sequence[float]) -> list[int] | None:
    """Whole links for each cell whose total mass is nearest to ``target``, of which each cell takes its share; None
    where cells of these widths and this depth cannot hold it."""
    choices: list[list[int]] = []
    for width, share in zip(widths, shares, strict=True):
        most = width * depth
        if target * share > most * 1.001:
            return None
        exact = cell_links(min(target * share, most), width, depth)
        choices.append([math.floor(exact), math.ceil(exact)])

    def miss(links: list[int]) -> float:
        return abs(sum(cell_mass(w, depth, t) for w, t in zip(widths, links, strict=True)) - target)

    return min((list(links) for links in itertools.product(*choices)), key=miss)


@dataclass(frozen=True)
class RandomDenseNets:
    """Networks "random_densenet" of given widths.

    Args:
        frame: images and classes.
        widths: channels of each cell.
        depthwise: see the model.
        depths: layers a cell that are tried.
        shares: of the mass, one a cell; by default in proportion to the widths, that is, equal densities.
        seed: of the links.
    """

    frame: Frame
    widths: Sequence[int] = (32, 64, 128)
    depthwise: bool = False
    depths: Sequence[int] | None = None
    shares: Sequence[float] | None = None
    seed: int = 0

    def candidates(self, target: float) -> Iterator[Candidate]:
        """For each depth the network whose mass is nearest to the target."""
        widths = [whole("each of widths", width) for width in several("widths", self.widths)]
        whole("seed", self.seed, 0)
        if not isinstance(self.depthwise, bool):
            raise PrecutError(f"depthwise must be True or False; got {self.depthwise!r}")
        if self.frame.input_size < 4:
            raise PrecutError(f"random_densenet takes images of at least 4 pixels; got {self.frame.input_size}")
        shares = [width / sum(widths) for width in widths]
        if self.shares is not None:
            shares = several("shares", self.shares)
        good = len(shares) == len(widths) and all(
            isinstance(share, (int, float, np.number)) and share >= 0 for share in shares
        )
        if not good or not math.isclose(sum(shares), 1.0, rel_tol=1e-6):
            raise PrecutError(
                f"shares must be one number a cell, with the sum 1; got {shares!r} for {len(widths)} cells"
            )
        for depth in _depths(self.depths):
            links = _nearest(target, widths, depth, shares)
            if links is not None:
                yield self.candidate(depth, links)

    def candidate(self, depth: int, links: Sequence[int]) -> Candidate:
        """The network with this depth and these links, one number a cell."""
        widths = list(self.widths)
        neurons = [width * depth for width in widths]
        pairs = list(zip(widths, links, strict=True))
        degrees = [cell_degree(width, depth, count) for width, count in pairs]
        params, macs = self._counted(depth, links)
        layers = len(widths) * depth * (3 if self.depthwise else 1) - (2 if self.depthwise else 0) + 1
        own: dict[str, Any] = {
            "depth": depth,
            "widths": widths,
            "links": list(links),
            "depthwise": self.depthwise,
            "seed": self.seed,
        }
        return Candidate(
            "random_densenet",
            {**self.frame.kwargs(), **own},
            f"widths {'-'.join(map(str, widths))}",
            sum(cell_mass(width, depth, count) for width, count in pairs),
            sum(k * n for k, n in zip(degrees, neurons, strict=True)) / sum(neurons),
            params,
            macs,
            layers,
        )

    def _counted(self, depth: int, links: Sequence[int]) -> tuple[int, int]:
        """(parameters, multiply-adds for one image)."""
        params = macs = 0
        side, reads = self.frame.input_size, self.frame.in_channels
        large = not is_small(side)
        for cell, width in enumerate(self.widths):
            for layer in range(depth):
                entering = width * max(0, layer - 1)
                linked = min(links[cell], entering)
                makes = _half(side) if layer == 0 and (cell or large) else side
                if layer:
                    reads = width + linked
                params += 2 * (width if layer < 2 else reads)
                if cell == layer == 0:
                    weights = reads * width * (49 if large else 9)
                    params, macs = params + weights, macs + weights * makes**2
                    makes = _half(makes) if large else makes  # the max pool
                elif self.depthwise:
                    params += reads * width + 9 * width + width * width + 6 * width
                    macs += reads * width * side**2 + (9 * width + width * width) * makes**2
                else:
                    params, macs = params + 9 * reads * width, macs + 9 * reads * width * makes**2
                side = makes
            reads = width
        head = 16 * reads * self.frame.num_classes
        return params + head + self.frame.num_classes, macs + head


def _half(side: int) -> int:
    """Side after a step of 2 with padding that keeps the size at 1."""
    return (side + 1) // 2


@dataclass(frozen=True)
class DenseMlps:
    """Networks "dense_mlp" of a given width.

    Args:
        frame: images and classes.
        width: neurons a layer.
        in_features: numbers that come in; by default those of an image.
        depths: that are tried.
        seed: of the links.
    """

    frame: Frame
    width: int = 8
    in_features: int | None = None
    depths: Sequence[int] | None = None
    seed: int = 0

    def candidates(self, target: float) -> Iterator[Candidate]:
        """For each depth the network whose mass is nearest to the target."""
        whole("width", self.width)
        whole("seed", self.seed, 0)
        if self.in_features is not None:
            whole("in_features", self.in_features)
        for depth in _depths(self.depths):
            links = _nearest(target, [self.width], depth, [1.0])
            if links is not None:
                yield self.candidate(depth, links[0])

    def candidate(self, depth: int, links: int) -> Candidate:
        """The network with this depth and these links."""
        width, frame = self.width, self.frame
        features = self.in_features or frame.in_channels * frame.input_size**2
        reads = [features, *(width + min(links, width * max(0, layer - 1)) for layer in range(1, depth))]
        makes = [width] * (depth - 1) + [frame.num_classes]
        macs = sum(a * b for a, b in zip(reads, makes, strict=True))
        own: dict[str, Any] = {"width": width, "depth": depth, "links": links, "seed": self.seed}
        if self.in_features is not None:
            own["in_features"] = self.in_features
        return Candidate(
            "dense_mlp",
            {**frame.kwargs(), **own},
            f"width {width}",
            cell_mass(width, depth, links),
            cell_degree(width, depth, links),
            macs + sum(makes),
            macs,
            depth,
        )
