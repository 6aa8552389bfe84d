"""DenseNets with random long-range links (Bhardwaj, Li, Marculescu, CVPR 2021, arXiv 1910.00780).

Cells of convolutions of one width each; a layer reads the layer before it and a random choice of channels of the layers
before that. Each further cell halves the image.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor, nn

from precut.errors import PrecutError, whole
from precut.models._blocks import is_small, scale_width
from precut.models._links import Links, cell_depth, draw_links, link_counts
from precut.models._registry import register

__all__ = ["RandomDenseNet"]

WIDTHS = (32, 64, 128)
LINKS = (10, 20, 40)
_PUBLISHED_SEED = 2  # the authors' code seeds the links of every network with it
_POOLED = 4  # side of the map that the head reads


def _convolutions(reads: int, makes: int, stride: int, depthwise: bool) -> nn.Module:
    """What stands for one convolution: 3x3, or 1x1, depthwise 3x3, 1x1 with batch norms."""
    if not depthwise:
        return nn.Conv2d(reads, makes, 3, stride, 1, bias=False)
    return nn.Sequential(
        nn.Conv2d(reads, makes, 1, bias=False),
        nn.BatchNorm2d(makes),
        nn.ReLU(),
        nn.Conv2d(makes, makes, 3, stride, 1, groups=makes, bias=False),
        nn.BatchNorm2d(makes),
        nn.ReLU(),
        nn.Conv2d(makes, makes, 1, bias=False),
        nn.BatchNorm2d(makes),
    )


class DenseCell(nn.Module):
    """A cell: ``first`` (the layer that enters it) and layers of one width with links.

    Args:
        drawn: for each layer the channels that it is linked to, as ``draw_links`` gives them.
        official: choose the linked channels as the published code does: see :func:`random_densenet`.
    """

    def __init__(
        self, first: nn.Module, width: int, drawn: Sequence[Sequence[int]], depthwise: bool, official: bool
    ) -> None:
        super().__init__()
        self.official = official
        self.layers = nn.ModuleList([first])
        self.links = nn.ModuleDict()
        for number, index in enumerate(drawn[1:], 1):
            reads = width + len(index)
            convolutions = _convolutions(reads, width, 1, depthwise)
            norm = nn.BatchNorm2d(width if number == 1 else reads)
            if number == 1:
                body = [nn.ReLU(), convolutions, norm]
            elif official and not index:
                body = [Unused(norm), nn.ReLU(), convolutions]
            else:
                body = [norm, nn.ReLU(), convolutions]
            self.layers.append(nn.Sequential(*body))
            if index:
                links = Links(index, width)
                self.links[str(number)] = links
                entering = convolutions[0] if isinstance(convolutions, nn.Sequential) else convolutions
                assert isinstance(entering, nn.Conv2d)
                _reorder_(entering.weight.data, width, links)

    def cell_layers(self) -> list[nn.Module]:
        """The cell's layers, each from what it reads to what it gives: what ``precut.topology`` counts by."""
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        made: list[Tensor] = []  # newest first
        newest = self.layers[0](x)
        for number in range(1, len(self.layers)):
            earlier = [newest, *made] if self.official else made
            reads = self.links[str(number)](newest, earlier) if str(number) in self.links else newest
            made = [newest, *made]
            newest = self.layers[number](reads)
        return newest


class Unused(nn.Module):
    """Holds a layer whose result is thrown away, as in the published code for cells without links."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x


def _reorder_(weight: Tensor, width: int, links: Links) -> None:
    """Gives each linked channel the weights that were drawn for its place in the draw."""
    places = [*range(width), *(width + place for place in links.order)]
    weight.copy_(weight[:, places].clone())


class RandomDenseNet(nn.Module):
    """Cells in a row, average pool to 4x4, linear head."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        small: bool,
        depth: int,
        widths: Sequence[int],
        links: Sequence[int],
        depthwise: bool,
        seed: int,
        official: bool,
    ) -> None:
        super().__init__()
        generator = random.Random(seed)
        drawn = [draw_links(width, depth, count, generator) for width, count in zip(widths, links, strict=True)]
        self.cells = nn.Sequential()
        reads = in_channels
        for number, width in enumerate(widths):
            if number:
                first = [_convolutions(reads, width, 2, depthwise), nn.BatchNorm2d(width)]
            elif small:
                first = [nn.Conv2d(reads, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
            else:
                stem = nn.Conv2d(reads, width, 7, 2, 3, bias=False)
                first = [stem, nn.BatchNorm2d(width), nn.MaxPool2d(3, 2, padding=1)]
            self.cells.append(DenseCell(nn.Sequential(*first), width, drawn[number], depthwise, official))
            reads = width
        self.pool = nn.AdaptiveAvgPool2d(_POOLED)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(reads * _POOLED * _POOLED, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.pool(self.cells(x))))


@register("random_densenet", min_input_size=4)
def random_densenet(
    num_classes: int,
    input_size: int,
    in_channels: int,
    width_mult: float,
    *,
    depth: int = 8,
    widths: Sequence[int] | None = None,
    links: int | Sequence[int] = LINKS,
    depthwise: bool = False,
    seed: int | None = None,
    official: bool = False,
) -> RandomDenseNet:
    """A DenseNet with random links. For images above 64 pixels the first convolution is 7x7 of stride 2, and a max pool
    of stride 2 follows it.

    Args:
        depth: layers of each cell, at least 3.
        widths: channels of each cell, (32, 64, 128) unless given; taken as they are, so ``width_mult`` must be 1.
        links: how many channels of the layers before its direct input a layer may read, one number or one a cell;
            where there are fewer, all.
        depthwise: every convolution but the first becomes 1x1, depthwise 3x3, 1x1.
        seed: of the links; 0 unless given, and 2 with ``official``, where the published code fixes it.
        official: as the published code does it, faults included. Its links are off by one layer: they are numbered from
            the direct input on, which they then repeat, and never reach layer 0. A layer without links skips its
            batch norm, which is then never used.
    """
    if widths is None:
        widths = [scale_width(width, width_mult) for width in WIDTHS]
    elif width_mult != 1:
        raise PrecutError(f"random_densenet got widths={widths!r} and width_mult={width_mult!r}: pass one of the two")
    if not isinstance(widths, (list, tuple)) or not widths:
        raise PrecutError(f"random_densenet's widths must be a list such as {list(WIDTHS)}, got {widths!r}")
    widths = [whole("each of widths", width) for width in widths]
    if links is LINKS and len(widths) != len(LINKS):
        raise PrecutError(f"random_densenet got {len(widths)} widths: pass links too, one number or one a cell")
    for name, given in (("depthwise", depthwise), ("official", official)):
        if not isinstance(given, bool):
            raise PrecutError(f"{name} must be True or False; got {given!r}")
    if seed is None:
        seed = _PUBLISHED_SEED if official else 0
    return RandomDenseNet(
        num_classes,
        in_channels,
        is_small(input_size),
        cell_depth(depth),
        widths,
        link_counts(links, len(widths)),
        depthwise,
        whole("seed", seed, 0),
        official,
    )
