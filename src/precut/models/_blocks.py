"""What several families share: rounding of widths, small modules, initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from precut.errors import unknown

__all__ = [
    "Scale",
    "activation_of",
    "conv_bn_act",
    "image_stem",
    "init_he_",
    "is_counts",
    "is_small",
    "make_divisible",
    "scale_width",
]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "gelu": nn.GELU}

# Above this side (pixels) a network uses the stem and strides that were published for 224 pixels.
LARGEST_SMALL_INPUT = 64


def is_small(input_size: int) -> bool:
    """Whether images of this side (pixels) get the stem and strides for small images."""
    return input_size <= LARGEST_SMALL_INPUT


def scale_width(width: int, width_mult: float, multiple: int = 8) -> int:
    """``width * width_mult`` rounded (halves up) to a multiple of ``multiple``, at least ``multiple``; a ``width_mult``
    of 1 returns ``width`` itself, whatever it is, so that the published network comes out."""
    if width_mult == 1:
        return width
    return max(multiple, int(width * width_mult / multiple + 0.5) * multiple)


def make_divisible(value: float, divisor: int = 8) -> int:
    """The MobileNet rule: ``value`` rounded to a multiple of ``divisor``, never below 90 % of ``value``
    (Sandler et al., 2018, the authors' code)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def is_counts(value: Any, length: int) -> bool:
    """Whether ``value`` is a list or tuple of ``length`` whole numbers above 0."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == length
        and all(isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in value)
    )


def activation_of(name: str) -> nn.Module:
    """A new activation module: ``"relu"``, ``"relu6"`` or ``"gelu"``. Not in place, so that hooks on the layer before
    see what it wrote."""
    if name not in _ACTIVATIONS:
        raise unknown("activation", name, _ACTIVATIONS)
    return _ACTIVATIONS[name]()


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: str | None = "relu",
    bias: bool = False,
) -> list[nn.Module]:
    """Convolution (padded to keep the size at stride 1), batch norm and, unless ``activation`` is None, activation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels)]
    return layers if activation is None else [*layers, activation_of(activation)]


def image_stem(
    in_channels: int, out_channels: int, input_size: int, bias: bool = False, large_kernel: int = 7
) -> nn.Sequential:
    """The first layers of most families: for small images a 3x3 convolution of stride 1, for others one of
    ``large_kernel`` and stride 2 and, last, a 3x3 max pool of stride 2."""
    if is_small(input_size):
        return nn.Sequential(*conv_bn_act(in_channels, out_channels, 3, bias=bias))
    return nn.Sequential(
        *conv_bn_act(in_channels, out_channels, large_kernel, 2, bias=bias), nn.MaxPool2d(3, 2, padding=1)
    )


def init_he_(model: nn.Module, mode: str = "fan_out", linear_std: float | None = None) -> None:
    """He et al. (2015) normal initialisation of every convolution, biases 0, batch norm 1 and 0.

    Args:
        mode: ``"fan_in"`` or ``"fan_out"``.
        linear_std: standard deviation of the linear layers' normal weights, whose biases become 0; None leaves
            linear layers as torch makes them.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Scale(nn.Module):
    """Multiplies its input by a constant that is neither trained nor stored."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"
