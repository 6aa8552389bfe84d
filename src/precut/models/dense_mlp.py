"""The multilayer perceptron with random long-range links of Bhardwaj, Li, Marculescu (CVPR 2021, arXiv 1910.00780)."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from precut.errors import whole
from precut.models._blocks import scale_width
from precut.models._links import PooledLinks, cell_depth, draw_links
from precut.models._registry import register

__all__ = ["DenseMlp"]


class DenseMlp(nn.Module):
    """``depth`` linear layers of one width; layer i reads layer i - 1 and up to ``links`` neurons of layers before.

    As in the authors' code: ELU behind the first layer; the second reads that as it is; every later one but the last
    has ELU on all that it reads, links included; the last has none. The whole network is one cell.
    """

    def __init__(self, in_features: int, width: int, depth: int, links: int, num_classes: int, seed: int) -> None:
        super().__init__()
        drawn = draw_links(width, depth, links, random.Random(seed))
        outputs = [width] * (depth - 1) + [num_classes]
        inputs = [in_features, *(width + len(index) for index in drawn[1:])]
        self.layers = nn.ModuleList()
        for layer, (reads, makes) in enumerate(zip(inputs, outputs, strict=True)):
            linear = nn.Linear(reads, makes)
            if layer == 0:
                self.layers.append(nn.Sequential(linear, nn.ELU()))
            elif 1 < layer < depth - 1:
                self.layers.append(nn.Sequential(nn.ELU(), linear))
            else:
                self.layers.append(nn.Sequential(linear))
        self.links = nn.ModuleDict({str(i): PooledLinks(index) for i, index in enumerate(drawn) if index})

    def cell_layers(self) -> list[nn.Module]:
        """The cell's layers, each from what it reads to what it gives: what ``precut.topology`` counts by."""
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        before, newest = None, self.layers[0](x.flatten(1))
        pool = None
        for number in range(1, len(self.layers)):
            reads = newest
            if pool is not None and str(number) in self.links:
                reads = self.links[str(number)](newest, pool)
            before, newest = newest, self.layers[number](reads)
            pool = before if pool is None else torch.cat([before, pool], 1)
        return newest


@register("dense_mlp", min_input_size=1)
def dense_mlp(
    num_classes: int,
    input_size: int,
    in_channels: int,
    width_mult: float,
    *,
    width: int = 8,
    depth: int = 16,
    links: int = 8,
    in_features: int | None = None,
    seed: int = 0,
) -> DenseMlp:
    """The MLP with random long-range links; takes (N, in_features), or images that it flattens.

    Args:
        width: neurons of every layer but the last; ``width_mult`` scales it.
        depth: linear layers, at least 3.
        links: how many neurons of the layers before its direct input a layer may read; where there are fewer, all.
        in_features: numbers that come in; by default those of an image of this size.
        seed: of the links.
    """
    whole("width", width)
    cell_depth(depth)
    whole("links", links, 0)
    whole("seed", seed, 0)
    given = in_channels * input_size * input_size if in_features is None else whole("in_features", in_features)
    return DenseMlp(given, scale_width(width, width_mult), depth, links, num_classes, seed)
