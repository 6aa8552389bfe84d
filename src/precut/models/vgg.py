"""VGG with batch norm (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556; batch norm after every convolution, whose
bias stays, as in the networks for CIFAR-10 that pruning papers use)."""

from __future__ import annotations

from torch import Tensor, nn

from precut.errors import unknown
from precut.models._blocks import conv_bn_act, init_he_, is_small, scale_width
from precut.models._registry import register

__all__ = ["VGG"]

STAGE_WIDTHS = (64, 128, 256, 512, 512)
HEADS = ("linear", "mlp")
MLP_WIDTH = 4096


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each ended by a 2x2 max pool, and a head."""

    def __init__(
        self,
        repeats: tuple[int, ...],
        head: str,
        num_classes: int,
        input_size: int,
        in_channels: int,
        width_mult: float,
    ) -> None:
        super().__init__()
        channels = in_channels
        stages = []
        for stage_width, repeat in zip(STAGE_WIDTHS, repeats, strict=True):
            layers: list[nn.Module] = []
            for _ in range(repeat):
                width = scale_width(stage_width, width_mult)
                layers += conv_bn_act(channels, width, 3, bias=True)
                channels = width
            stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.stages = nn.Sequential(*stages)
        if head == "linear":
            self.pool: nn.Module = nn.AdaptiveAvgPool2d(1)
            self.flatten = nn.Flatten()
            self.head: nn.Module = nn.Linear(channels, num_classes)
        else:
            side = input_size // 2 ** len(STAGE_WIDTHS)
            hidden = scale_width(MLP_WIDTH, width_mult)
            self.pool = nn.Identity()
            self.flatten = nn.Flatten()
            self.head = nn.Sequential(
                nn.Linear(channels * side * side, hidden),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(hidden, num_classes),
            )
        init_he_(self, "fan_out", linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.pool(self.stages(x))))


@register("vgg11", min_input_size=32, repeats=(1, 1, 2, 2, 2))
@register("vgg13", min_input_size=32, repeats=(2, 2, 2, 2, 2))
@register("vgg16", min_input_size=32, repeats=(2, 2, 3, 3, 3))
@register("vgg19", min_input_size=32, repeats=(2, 2, 4, 4, 4))
def vgg(
    num_classes: int,
    input_size: int,
    in_channels: int,
    width_mult: float,
    *,
    repeats: tuple[int, ...],
    head: str | None = None,
) -> VGG:
    """VGG with batch norm.

    Args:
        head: ``"linear"``, a global average pool and one linear layer (512 to classes at any size; the default up to
            64 pixels), or ``"mlp"``, the published three linear layers of 4096 (the default above).
    """
    if head is None:
        head = "linear" if is_small(input_size) else "mlp"
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    return VGG(repeats, head, num_classes, input_size, in_channels, width_mult)
