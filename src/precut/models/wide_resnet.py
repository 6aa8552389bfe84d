"""Wide residual networks for small images (Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv
1605.07146): pre-activation blocks (batch norm, ReLU, convolution), no dropout."""

from __future__ import annotations

from torch import Tensor, nn

from precut.models._blocks import init_he_, is_small, scale_width
from precut.models._registry import register

__all__ = ["WideResNet"]


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU. Where shapes differ, the shortcut is a 1x1 convolution of
    the activated input; elsewhere it is the raw input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.act1(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(self.act2(self.norm2(self.conv1(activated)))) + skip


class WideResNet(nn.Module):
    """Stem (bare: the first block begins with batch norm), three stages, batch norm, ReLU, global average pool,
    linear head."""

    def __init__(
        self, depth: int, widen: int, num_classes: int, input_size: int, in_channels: int, width_mult: float
    ) -> None:
        super().__init__()
        channels = scale_width(16, width_mult)
        widths = [scale_width(width * widen, width_mult) for width in (16, 32, 64)]
        if is_small(input_size):
            self.stem = nn.Sequential(nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False))
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, padding=1)
            )
        stages = []
        for index, width in enumerate(widths):
            blocks = []
            for position in range((depth - 4) // 6):
                blocks.append(PreActBlock(channels, width, 2 if index > 0 and position == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels, num_classes)
        init_he_(self, "fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stages(self.stem(x))))
        return self.head(self.flatten(self.pool(x)))


@register("wide_resnet16_4", min_input_size=4, depth=16, widen=4)
@register("wide_resnet16_8", min_input_size=4, depth=16, widen=8)
@register("wide_resnet28_10", min_input_size=4, depth=28, widen=10)
@register("wide_resnet40_2", min_input_size=4, depth=40, widen=2)
@register("wide_resnet40_4", min_input_size=4, depth=40, widen=4)
def wide_resnet(
    num_classes: int, input_size: int, in_channels: int, width_mult: float, *, depth: int, widen: int
) -> WideResNet:
    """WRN-depth-widen, of depth 6 n + 4."""
    return WideResNet(depth, widen, num_classes, input_size, in_channels, width_mult)
