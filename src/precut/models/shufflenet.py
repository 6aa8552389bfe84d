"""ShuffleNet (Zhang et al., CVPR 2018, arXiv 1707.01083) and ShuffleNet V2 (Ma et al., ECCV 2018, arXiv 1807.11164).

For small images the stem is a 3x3 convolution of stride 1 without a max pool (32 pixels end as 4x4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from precut.errors import PrecutError
from precut.models._blocks import conv_bn_act, image_stem, init_he_, scale_width
from precut.models._registry import register

__all__ = ["ShuffleNet", "ShuffleUnitV1", "ShuffleUnitV2"]

STAGE_REPEATS = (4, 8, 4)
STEM_WIDTH = 24
V1_WIDTHS = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}
# Stems that the authors' networks round otherwise than the rule below; by groups and width_mult.
V1_STEMS = {(3, 0.5): 12, (3, 1.5): 24, (8, 1.5): 24}
# Below this, rounding leaves some stage no wider than the one before, and its first unit has nothing to concatenate.
V1_LEAST_WIDTH_MULT = 0.25
# The published networks: width_mult to the stages' widths and the last 1x1 convolution's.
V2_WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class ShuffleUnitV1(nn.Module):
    """Grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1. At stride 1 it is added to its input; at stride 2 its
    input, average-pooled, is concatenated before it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        inner = out_channels // 4
        grown = out_channels - in_channels if stride == 2 else out_channels
        self.body = nn.Sequential(
            *conv_bn_act(in_channels, inner, 1, groups=first_groups),
            nn.ChannelShuffle(groups),
            *conv_bn_act(inner, inner, 3, stride, groups=inner, activation=None),
            *conv_bn_act(inner, grown, 1, groups=groups, activation=None),
        )
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is None:
            return self.act(x + self.body(x))
        return self.act(torch.cat([self.pool(x), self.body(x)], 1))


class ShuffleUnitV2(nn.Module):
    """At stride 1 half of the channels pass untouched, at stride 2 both halves come from all channels; then the halves
    are concatenated and shuffled."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.branch: nn.Module | None = None
        if stride == 2:
            self.branch = nn.Sequential(
                *conv_bn_act(in_channels, in_channels, 3, 2, groups=in_channels, activation=None),
                *conv_bn_act(in_channels, half, 1),
            )
        self.body = nn.Sequential(
            *conv_bn_act(in_channels if stride == 2 else half, half, 1),
            *conv_bn_act(half, half, 3, stride, groups=half, activation=None),
            *conv_bn_act(half, half, 1),
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        if self.branch is None:
            kept, changed = x.chunk(2, 1)
            return self.shuffle(torch.cat([kept, self.body(changed)], 1))
        return self.shuffle(torch.cat([self.branch(x), self.body(x)], 1))


class ShuffleNet(nn.Module):
    """Stem, three stages, optional last convolution, global average pool, linear head."""

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], last: nn.Module, channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.last = last
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels, num_classes)
        init_he_(self, "fan_out", linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.pool(self.last(self.stages(self.stem(x))))))


@register("shufflenetv1", min_input_size=8)
def shufflenetv1(
    num_classes: int, input_size: int, in_channels: int, width_mult: float, *, groups: int = 3
) -> ShuffleNet:
    """ShuffleNet. Scaled widths are rounded to multiples that ``groups`` divides: lcm(8, 4 * groups) in the stages,
    lcm(8, groups) in the stem; the authors' networks (3 or 8 groups, ``width_mult`` 0.5, 1.5 and 2) keep their stems.

    Args:
        groups: groups of the 1x1 convolutions: 1, 2, 3, 4 or 8, each with its published widths. The first 1x1
            convolution after the stem is not grouped, as in the paper.
    """
    if not isinstance(groups, int) or groups not in V1_WIDTHS:
        raise PrecutError(f"shufflenetv1's groups must be one of {list(V1_WIDTHS)}, got {groups!r}")
    if width_mult < V1_LEAST_WIDTH_MULT:
        raise PrecutError(f"shufflenetv1's width_mult must be at least {V1_LEAST_WIDTH_MULT}, got {width_mult!r}")
    channels = V1_STEMS.get((groups, width_mult), scale_width(STEM_WIDTH, width_mult, math.lcm(8, groups)))
    stem = image_stem(in_channels, channels, input_size, large_kernel=3)
    stages = []
    for index, (stage_width, repeat) in enumerate(zip(V1_WIDTHS[groups], STAGE_REPEATS, strict=True)):
        width = scale_width(stage_width, width_mult, math.lcm(8, 4 * groups))
        units = []
        for position in range(repeat):
            first_groups = 1 if index == 0 and position == 0 else groups
            units.append(ShuffleUnitV1(channels, width, 2 if position == 0 else 1, groups, first_groups))
            channels = width
        stages.append(nn.Sequential(*units))
    return ShuffleNet(stem, stages, nn.Identity(), channels, num_classes)


@register("shufflenetv2", min_input_size=8)
def shufflenetv2(num_classes: int, input_size: int, in_channels: int, width_mult: float) -> ShuffleNet:
    """ShuffleNet V2. A ``width_mult`` of 0.5, 1, 1.5 or 2 gives the published widths (the stem stays 24); another one
    scales those of 1.0 and rounds to a multiple of 8."""
    if width_mult in V2_WIDTHS:
        *widths, last_width = V2_WIDTHS[width_mult]
    else:
        *widths, last_width = (scale_width(width, width_mult) for width in V2_WIDTHS[1.0])
    channels = STEM_WIDTH
    stem = image_stem(in_channels, channels, input_size, large_kernel=3)
    stages = []
    for width, repeat in zip(widths, STAGE_REPEATS, strict=True):
        units = []
        for position in range(repeat):
            units.append(ShuffleUnitV2(channels, width, 2 if position == 0 else 1))
            channels = width
        stages.append(nn.Sequential(*units))
    last = nn.Sequential(*conv_bn_act(channels, last_width, 1))
    return ShuffleNet(stem, stages, last, last_width, num_classes)
