"""ResNet-18 to -101 (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385) and the
Wide-ResNet-50-2 of Zagoruyko and Komodakis (2016).

Bottlenecks stride in their 3x3 convolution ("v1.5"), which moves no parameter and is what published counts for
ResNet-50 mostly mean. For small images the stem is one 3x3 convolution of stride 1 without a max pool.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from precut.models._blocks import conv_bn_act, image_stem, init_he_, scale_width
from precut.models._registry import register

__all__ = ["BasicBlock", "Bottleneck", "ResNet"]

STAGE_WIDTHS = (64, 128, 256, 512)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut: the identity where shapes agree, a 1x1 convolution with batch norm elsewhere."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(*conv_bn_act(in_channels, out_channels, 1, stride, activation=None))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        out_channels = width * expansion
        self.body = nn.Sequential(
            *conv_bn_act(in_channels, width, 3, stride), *conv_bn_act(width, out_channels, 3, activation=None)
        )
        self.shortcut = _projection(in_channels, out_channels, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; ``widen`` multiplies the inner width only."""

    def __init__(self, in_channels: int, width: int, stride: int, expansion: int, widen: int = 1) -> None:
        super().__init__()
        inner, out_channels = width * widen, width * expansion
        self.body = nn.Sequential(
            *conv_bn_act(in_channels, inner, 1),
            *conv_bn_act(inner, inner, 3, stride),
            *conv_bn_act(inner, out_channels, 1, activation=None),
        )
        self.shortcut = _projection(in_channels, out_channels, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, four stages of blocks, global average pool, linear head."""

    def __init__(
        self,
        block: Callable[[int, int, int, int], nn.Module],
        expansion: int,
        repeats: tuple[int, ...],
        num_classes: int,
        input_size: int,
        in_channels: int,
        width_mult: float,
    ) -> None:
        super().__init__()
        widths = [scale_width(width, width_mult) for width in STAGE_WIDTHS]
        self.stem = image_stem(in_channels, widths[0], input_size)
        channels = widths[0]
        stages = []
        for index, (width, repeat) in enumerate(zip(widths, repeats, strict=True)):
            blocks = []
            for position in range(repeat):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride, expansion))
                channels = width * expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels, num_classes)
        init_he_(self, "fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.pool(self.stages(self.stem(x)))))


@register("resnet18", min_input_size=8, repeats=(2, 2, 2, 2))
@register("resnet34", min_input_size=8, repeats=(3, 4, 6, 3))
def basic_resnet(
    num_classes: int, input_size: int, in_channels: int, width_mult: float, *, repeats: tuple[int, ...]
) -> ResNet:
    """ResNets of basic blocks."""
    return ResNet(BasicBlock, 1, repeats, num_classes, input_size, in_channels, width_mult)


@register("resnet50", min_input_size=8, repeats=(3, 4, 6, 3), widen=1)
@register("resnet101", min_input_size=8, repeats=(3, 4, 23, 3), widen=1)
@register("wide_resnet50_2", min_input_size=8, repeats=(3, 4, 6, 3), widen=2)
def bottleneck_resnet(
    num_classes: int, input_size: int, in_channels: int, width_mult: float, *, repeats: tuple[int, ...], widen: int
) -> ResNet:
    """ResNets of bottlenecks, whose stages are four times as wide outside as ``STAGE_WIDTHS``."""

    def block(channels: int, width: int, stride: int, expansion: int) -> Bottleneck:
        return Bottleneck(channels, width, stride, expansion, widen)

    return ResNet(block, 4, repeats, num_classes, input_size, in_channels, width_mult)
