"""Random long-range links: which earlier channels a layer reads besides its direct input.

After Bhardwaj, Li, Marculescu (CVPR 2021, arXiv 1910.00780): layer i of a cell of width w may read, beside layer i - 1,
the w (i - 1) channels of layers 0 to i - 2, and reads at most ``links`` of them, drawn without replacement, fixed when
the network is built, the same ones for all of the layer's outputs. The draws come from a generator of their own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from precut.errors import PrecutError, whole

__all__ = ["LEAST_DEPTH", "Links", "PooledLinks", "cell_depth", "draw_links", "link_counts"]

LEAST_DEPTH = 3  # the third layer is the first that has something to skip


def cell_depth(depth: Any) -> int:
    """``depth`` if it is a number of layers that a cell can have.

    Raises:
        PrecutError: for anything else.
    """
    if isinstance(depth, int) and not isinstance(depth, bool) and 0 <= depth < LEAST_DEPTH:
        raise PrecutError(
            f"a cell of depth={depth} has no layer that a long-range link could skip; depth must be at least "
            f"{LEAST_DEPTH}"
        )
    return whole("depth", depth, LEAST_DEPTH)


def link_counts(links: Any, cells: int) -> list[int]:
    """``links`` as one number a cell.

    Raises:
        PrecutError: for anything but a whole number from 0 up, or a list of ``cells`` such numbers.
    """
    given = list(links) if isinstance(links, (list, tuple)) else [links] * cells
    if len(given) != cells:
        raise PrecutError(f"links must be one number or one a cell, {cells} here; got {links!r}")
    return [whole("links", count, 0) for count in given]


def draw_links(width: int, depth: int, links: int, generator: random.Random) -> list[list[int]]:
    """For each layer the channels that it reads from further back, numbered from the newest layer that it may read:
    channel c of the k-th layer before that is k * width + c. In the order of the draw."""
    drawn: list[list[int]] = []
    for layer in range(depth):
        candidates = width * max(0, layer - 1)
        drawn.append(generator.sample(range(candidates), min(links, candidates)))
    return drawn


class Links(nn.Module):
    """Joins a layer's direct input with channels of earlier layers, each taken from its own layer.

    Only what is linked is copied: on images that is several times faster than picking from the concatenation of all
    earlier layers. The numbers of the channels are buffers, ``from_0`` for those of the newest layer that may be
    linked and so on; a layer without links has none.

    Args:
        index: numbers as :func:`draw_links` gives them.
        width: channels of every earlier layer.

    Attributes:
        order: place in ``index`` of each joined channel: the channels come layer by layer, newest first.
    """

    def __init__(self, index: Sequence[int], width: int) -> None:
        super().__init__()
        self.order = sorted(range(len(index)), key=lambda place: index[place] // width)
        self.sources: list[int] = sorted({number // width for number in index})
        for source in self.sources:
            own = [index[place] % width for place in self.order if index[place] // width == source]
            self.register_buffer(f"from_{source}", torch.tensor(own, dtype=torch.int64))

    def forward(self, newest: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        """(N, w, ...) and the earlier layers' outputs, newest first, to (N, w + links, ...)."""
        parts = [earlier[source].index_select(1, getattr(self, f"from_{source}")) for source in self.sources]
        return torch.cat([newest, *parts], 1)

    def extra_repr(self) -> str:
        return f"{len(self.order)} channels of {len(self.sources)} layers"


class PooledLinks(nn.Module):
    """The same for vectors: picks from the concatenation of all earlier layers, in the order of the draw.

    For some tens of numbers a layer, few operations matter more than few copies.
    """

    index: Tensor

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64))

    def forward(self, newest: Tensor, pool: Tensor) -> Tensor:
        """(N, w) and the concatenated earlier layers (N, candidates), newest first, to (N, w + links)."""
        return torch.cat([newest, pool.index_select(1, self.index)], 1)

    def extra_repr(self) -> str:
        return f"{len(self.index)} channels"
