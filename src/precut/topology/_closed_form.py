"""NN-Mass in closed form, and back (Bhardwaj, Li, Marculescu, CVPR 2021, arXiv 1910.00780).

A cell has ``depth`` layers of ``width`` channels. Layer i (from 0) reads layer i - 1 and at most ``links`` of the
width (i - 1) channels before that. Density is what it reads over what it could, mass is width x depth x density.
"""

from __future__ import annotations

from typing import Any

from precut.errors import PrecutError, real, whole
from precut.models import LEAST_DEPTH

__all__ = [
    "basic_block_mass",
    "bottleneck_mass",
    "cell_degree",
    "cell_density",
    "cell_links",
    "cell_mass",
    "inverted_residual_mass",
]


def _checked(width: Any, depth: Any) -> tuple[int, int]:
    if isinstance(depth, int) and not isinstance(depth, bool) and depth < LEAST_DEPTH:
        raise PrecutError(
            f"a cell of depth={depth} has no layer that a link could skip, so no density; depth must be at least "
            f"{LEAST_DEPTH}"
        )
    return whole("width", width), whole("depth", depth, LEAST_DEPTH)


def _linked(width: int, depth: int, links: float) -> float:
    """Channels that long-range links bring, over all layers: the sum of min(links, width (i - 1)) for i from 2."""
    full = min(int(links // width), depth - 2)  # so many layers read all that they could
    return width * full * (full + 1) / 2 + links * (depth - 2 - full)


def cell_density(width: int, depth: int, links: float) -> float:
    """Linked channels over those that could be: 2 sum_i min(width (i - 1), links) / (width (depth - 1) (depth - 2)).

    Args:
        width: channels of each layer.
        depth: layers, at least 3.
        links: the most channels that a layer reads beside its direct input, at least 0.

    Raises:
        PrecutError: for other values.
    """
    width, depth = _checked(width, depth)
    return 2 * _linked(width, depth, real("links", links, 0, finite=True)) / (width * (depth - 1) * (depth - 2))


def cell_mass(width: int, depth: int, links: float) -> float:
    """width x depth x density. It is 2 links depth / (depth - 1), whatever the width, while links <= width, and at most
    width x depth. Arguments as for :func:`cell_density`."""
    return width * depth * cell_density(width, depth, links)


def cell_degree(width: int, depth: int, links: float) -> float:
    """Mean number of channels that a channel of the cell reads: width from its direct input, and from further back
    mass / 2 but for a factor (depth - 1) (depth - 2) / depth^2."""
    width, depth = _checked(width, depth)
    return width + _linked(width, depth, real("links", links, 0, finite=True)) / depth


def cell_links(mass: float, width: int, depth: int) -> float:
    """The ``links`` that give a cell this mass: the inverse of :func:`cell_mass`, not rounded.

    Raises:
        PrecutError: when no number of links does: the mass is below 0 or above width x depth.
    """
    width, depth = _checked(width, depth)
    mass = real("mass", mass, 0, finite=True)
    if mass > width * depth * (1 + 1e-12):
        raise PrecutError(
            f"a cell of width {width} and depth {depth} has a mass of at most {width * depth} (all links); got "
            f"mass={mass:g}: make it wider or deeper"
        )
    wanted = mass * (depth - 1) * (depth - 2) / (2 * depth)
    for full in range(depth - 2):
        links = (wanted - width * full * (full + 1) / 2) / (depth - 2 - full)
        if links <= width * (full + 1):
            return links
    return float(width * (depth - 2))


def basic_block_mass(channels: int, planes: int) -> float:
    """Of a residual block of two convolutions, ``channels`` to ``planes`` to ``planes``: channels + planes."""
    return float(whole("channels", channels) + whole("planes", planes))


def bottleneck_mass(channels: int, width: int) -> float:
    """Of a residual block of three convolutions, the middle one of ``width``: (c + 2 w) c / (2 c + w)."""
    c, w = whole("channels", channels), whole("width", width)
    return (c + 2 * w) * c / (2 * c + w)


def inverted_residual_mass(channels: int, expansion: int = 6) -> float:
    """Of an inverted residual block with a shortcut: (c + 2 h) c / (2 c + h), h = c x expansion (1.625 c for 6)."""
    return bottleneck_mass(channels, whole("channels", channels) * whole("expansion", expansion))
