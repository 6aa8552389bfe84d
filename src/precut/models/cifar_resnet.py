"""The ResNets made for CIFAR-10: ResNet-20 to -110 (He et al., 2016, section 4.2) and the ResNet-8 of MLPerf Tiny
(Banbury et al., "MLPerf Tiny Benchmark", 2021, arXiv 2106.07597)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from precut.errors import unknown
from precut.models._blocks import conv_bn_act, image_stem, init_he_, scale_width
from precut.models._registry import register

__all__ = ["CifarResNet", "PadShortcut"]

STAGE_WIDTHS = (16, 32, 64)
SHORTCUTS = ("pad", "conv_bn", "conv")


class PadShortcut(nn.Module):
    """The shortcut without parameters ("option A"): every ``stride``-th pixel, new channels zero, half of them before
    and half after the old ones."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.subsample = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        before = (out_channels - in_channels) // 2
        self.padding = (0, 0, 0, 0, before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(self.subsample(x), self.padding)

    def take_channels_(self, axis: str, index: Tensor) -> None:
        """Keeps the channels of zeros that ``index`` (int64, counted over those before and then those after the old
        channels) names, in place; the axis is "pad"."""
        if axis != "pad":
            raise unknown("axis of PadShortcut", axis, ("pad",))
        before = int((index < self.padding[4]).sum())
        self.padding = (0, 0, 0, 0, before, len(index) - before)

    def extra_repr(self) -> str:
        return f"padding={self.padding}"


def _shortcut(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(in_channels, out_channels, stride)
    if kind == "conv_bn":
        return nn.Sequential(*conv_bn_act(in_channels, out_channels, 1, stride, activation=None))
    return nn.Conv2d(in_channels, out_channels, 1, stride)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str, bias: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_act(in_channels, out_channels, 3, stride, bias=bias),
            *conv_bn_act(out_channels, out_channels, 3, activation=None, bias=bias),
        )
        self.shortcut = _shortcut(shortcut, in_channels, out_channels, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Stem, three stages of ``blocks_per_stage`` blocks, global average pool, linear head."""

    def __init__(
        self,
        blocks_per_stage: int,
        shortcut: str,
        bias: bool,
        num_classes: int,
        input_size: int,
        in_channels: int,
        width_mult: float,
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise unknown("shortcut", shortcut, SHORTCUTS)
        widths = [scale_width(width, width_mult) for width in STAGE_WIDTHS]
        self.stem = image_stem(in_channels, widths[0], input_size, bias)
        channels = widths[0]
        stages = []
        for index, width in enumerate(widths):
            blocks = []
            for position in range(blocks_per_stage):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(CifarBlock(channels, width, stride, shortcut, bias))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels, num_classes)
        init_he_(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.pool(self.stages(self.stem(x)))))


@register("resnet20", min_input_size=4, depth=20)
@register("resnet32", min_input_size=4, depth=32)
@register("resnet44", min_input_size=4, depth=44)
@register("resnet56", min_input_size=4, depth=56)
@register("resnet110", min_input_size=4, depth=110)
def cifar_resnet(
    num_classes: int, input_size: int, in_channels: int, width_mult: float, *, depth: int, shortcut: str = "pad"
) -> CifarResNet:
    """ResNets of depth 6 n + 2.

    Args:
        shortcut: where shapes differ, ``"pad"`` (the paper's option A, no parameters), ``"conv_bn"`` (option B: a 1x1
            convolution with batch norm) or ``"conv"`` (a 1x1 convolution with a bias).
    """
    return CifarResNet((depth - 2) // 6, shortcut, False, num_classes, input_size, in_channels, width_mult)


@register("resnet8", min_input_size=4)
def resnet8(num_classes: int, input_size: int, in_channels: int, width_mult: float) -> CifarResNet:
    """The MLPerf Tiny network: one block a stage, biased convolutions, 1x1 shortcuts without batch norm.

    It differs from the Keras reference in one point: its padding is symmetric where the stride is 2.
    """
    return CifarResNet(1, "conv", True, num_classes, input_size, in_channels, width_mult)
