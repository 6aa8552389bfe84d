"""MobileNetV1 (Howard et al., 2017, arXiv 1704.04861) and MobileNetV2 (Sandler et al., CVPR 2018, arXiv 1801.04381).

Scaled widths follow the authors' rule, :func:`precut.models._blocks.make_divisible`. For small images the stem
has stride 1; in MobileNetV2 so has the first stage that would halve the image.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from precut.errors import PrecutError, real
from precut.models._blocks import conv_bn_act, init_he_, is_counts, is_small, make_divisible
from precut.models._registry import register

__all__ = ["InvertedResidual", "MobileNet"]

# (width, blocks, stride of the first block)
V1_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
# (expansion, width, blocks, stride of the first block)
V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
V2_REPEATS = tuple(stage[2] for stage in V2_STAGES)


class InvertedResidual(nn.Module):
    """1x1 convolution that widens (none where ``expansion`` is 1), depthwise 3x3, 1x1 that narrows without activation;
    a shortcut where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, activation: str) -> None:
        super().__init__()
        hidden = in_channels * expansion
        widen = conv_bn_act(in_channels, hidden, 1, activation=activation) if expansion != 1 else []
        self.body = nn.Sequential(
            *widen,
            *conv_bn_act(hidden, hidden, 3, stride, groups=hidden, activation=activation),
            *conv_bn_act(hidden, out_channels, 1, activation=None),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.has_shortcut else self.body(x)


class MobileNet(nn.Module):
    """Stem and blocks in a row, global average pool, optional dropout, linear head."""

    def __init__(self, layers: Sequence[nn.Module], channels: int, dropout: float, num_classes: int) -> None:
        super().__init__()
        dropout = real("dropout", dropout, 0, below=1, what="probability")
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(channels, num_classes)
        init_he_(self, "fan_out", linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.flatten(self.pool(self.features(x)))))


@register("mobilenetv1", min_input_size=16)
def mobilenetv1(
    num_classes: int,
    input_size: int,
    in_channels: int,
    width_mult: float,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
) -> MobileNet:
    """MobileNetV1. For small images only the stem's stride changes (32 pixels end as 2x2).

    Args:
        activation: ``"relu"`` or ``"relu6"``.
        dropout: probability of dropping a feature before the head.
    """
    channels = make_divisible(32 * width_mult)
    layers = conv_bn_act(in_channels, channels, 3, 1 if is_small(input_size) else 2, activation=activation)
    for stage_width, repeat, first_stride in V1_STAGES:
        width = make_divisible(stage_width * width_mult)
        for position in range(repeat):
            stride = first_stride if position == 0 else 1
            depthwise = conv_bn_act(channels, channels, 3, stride, groups=channels, activation=activation)
            layers.append(nn.Sequential(*depthwise, *conv_bn_act(channels, width, 1, activation=activation)))
            channels = width
    return MobileNet(layers, channels, dropout, num_classes)


@register("mobilenetv2", min_input_size=8)
def mobilenetv2(
    num_classes: int,
    input_size: int,
    in_channels: int,
    width_mult: float,
    *,
    repeats: Sequence[int] = V2_REPEATS,
    activation: str = "relu6",
    dropout: float = 0.0,
) -> MobileNet:
    """MobileNetV2. For small images the stem and the stage of width 24 have stride 1 (32 pixels end as 4x4).

    Args:
        repeats: blocks in each of the seven stages.
        activation: ``"relu6"`` (the paper's) or ``"relu"``.
        dropout: probability of dropping a feature before the head (the authors train with 0.2 on ImageNet).
    """
    if not is_counts(repeats, len(V2_STAGES)):
        raise PrecutError(
            f"mobilenetv2's repeats must be {len(V2_STAGES)} whole numbers above 0 such as {list(V2_REPEATS)}, "
            f"got {repeats!r}"
        )
    small = is_small(input_size)
    channels = make_divisible(32 * width_mult)
    layers = conv_bn_act(in_channels, channels, 3, 1 if small else 2, activation=activation)
    for index, ((expansion, stage_width, _, first_stride), repeat) in enumerate(zip(V2_STAGES, repeats, strict=True)):
        width = make_divisible(stage_width * width_mult)
        for position in range(repeat):
            stride = first_stride if position == 0 and not (small and index == 1) else 1
            layers.append(InvertedResidual(channels, width, stride, expansion, activation))
            channels = width
    last = make_divisible(1280 * max(1.0, width_mult))
    layers += conv_bn_act(channels, last, 1, activation=activation)
    return MobileNet(layers, last, dropout, num_classes)
