"""Widths, strides, shortcuts, shuffles and initialisation of the families."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from precut.models import create_model
from precut.models._blocks import make_divisible, scale_width
from precut.models.cifar_resnet import PadShortcut


def side_before_head(name: str, size: int) -> int:
    """Side of the last feature map, in pixels."""
    with torch.device("meta"):
        model = create_model(name, input_size=size)
        sides: list[int] = []
        model.pool.register_forward_hook(lambda module, inputs, output: sides.append(inputs[0].shape[-1]))
        model(torch.empty(2, 3, size, size))
    return sides[0]


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("resnet18", {32: 4, 64: 8, 224: 7}),
        ("resnet20", {32: 8, 64: 16, 224: 14}),
        ("resnet8", {32: 8}),
        ("wide_resnet28_10", {32: 8, 64: 16, 224: 14}),
        ("wide_resnet50_2", {32: 4, 224: 7}),
        ("vgg16", {32: 1, 64: 2, 224: 7}),
        ("mobilenetv1", {32: 2, 64: 4, 224: 7}),
        ("mobilenetv2", {32: 4, 64: 8, 224: 7}),
        ("shufflenetv1", {32: 4, 64: 8, 224: 7}),
        ("shufflenetv2", {32: 4, 64: 8, 224: 7}),
        ("speednet", {28: 3, 32: 3, 64: 7}),
    ],
)
def test_last_feature_map(name: str, sides: dict[int, int]) -> None:
    assert {size: side_before_head(name, size) for size in sides} == sides


@given(width=st.integers(1, 2000), width_mult=st.floats(0.01, 4))
def test_scaled_width_is_the_nearest_multiple(width: int, width_mult: float) -> None:
    scaled = scale_width(width, width_mult)
    if width_mult == 1:
        assert scaled == width
    else:
        assert scaled % 8 == 0
        assert scaled >= 8
        assert abs(scaled - width * width_mult) <= 4.001 or scaled == 8


@pytest.mark.parametrize(
    ("value", "expected"),
    [(32, 32), (8, 8), (3, 8), (24 * 1.4, 32), (16 * 0.35, 8), (96 * 0.75, 72), (19, 24), (20, 24), (35.2, 32)],
)
def test_make_divisible(value: float, expected: int) -> None:
    """19 and 20 lie between 16 (less than 90 % of them) and 24; 35.2 may fall to 32 (90.9 %)."""
    assert make_divisible(value) == expected


def test_width_multiplier_of_the_published_mobilenetv2() -> None:
    with torch.device("meta"):
        model = create_model("mobilenetv2", width_mult=1.4)
        norms = [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms[0] == 48  # 44.8
    assert norms[-1] == 1792  # 1280 * 1.4
    with torch.device("meta"):
        assert create_model("mobilenetv2", width_mult=0.5).head.in_features == 1280


def test_pad_shortcut_is_subsampling_between_zeros() -> None:
    x = torch.randn(2, 3, 5, 5)
    expected = torch.zeros(2, 8, 3, 3)
    for channel in range(3):
        expected[:, 2 + channel] = x[:, channel, ::2, ::2]
    assert torch.equal(PadShortcut(3, 8, 2)(x), expected)


@pytest.mark.parametrize("shortcut", ["pad", "conv_bn", "conv"])
def test_cifar_shortcuts(shortcut: str) -> None:
    model = create_model("resnet20", shortcut=shortcut)
    ones = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(ones) == (0 if shortcut == "pad" else 2)
    assert all((conv.bias is not None) == (shortcut == "conv") for conv in ones)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_preactivation_shortcut_is_raw_where_shapes_agree() -> None:
    """With its convolutions at zero a block whose shape does not change returns its input."""
    block = create_model("wide_resnet16_4", width_mult=0.25).stages[0][1]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, block.conv1.in_channels, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_shufflenetv1_groups(groups: int) -> None:
    model = create_model("shufflenetv1", groups=groups, width_mult=0.25, input_size=8)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    units = [unit for stage in model.stages for unit in stage]
    grouped = [unit.body[0].groups for unit in units]
    assert grouped == [1] + [groups] * 15


def test_shuffle_unit_mixes_all_groups() -> None:
    """After one grouped unit every output channel of the second 1x1 convolution sees every group of inputs."""
    model = create_model("shufflenetv1", groups=3, input_size=8).eval()
    body = model.stages[0][1].body
    for module in body:
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    x = torch.zeros(3, 240, 2, 2)
    for group in range(3):
        x[group, 80 * group : 80 * group + 80] = 1
    with torch.no_grad():
        assert (body(x) > 0).all()


def test_shuffle_unit_v2_keeps_half() -> None:
    unit = create_model("shufflenetv2", input_size=8).eval().stages[0][1]
    x = torch.randn(1, 116, 2, 2)
    with torch.no_grad():
        y = unit(x)
    assert torch.equal(y[:, 0::2], x[:, :58])


def weights(model: nn.Module) -> list[tuple[nn.Conv2d, Tensor]]:
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return [(conv, conv.weight.detach()) for conv in convs if conv.weight.numel() > 20_000]


@pytest.mark.parametrize(
    ("name", "mode"),
    [("resnet18", "out"), ("resnet20", "in"), ("vgg11", "out"), ("wide_resnet16_4", "out"), ("speednet", "in")],
)
def test_he_initialisation(name: str, mode: str) -> None:
    torch.manual_seed(0)
    layers = weights(create_model(name))
    assert layers
    for conv, weight in layers:
        fan = (conv.out_channels if mode == "out" else conv.in_channels) * math.prod(conv.kernel_size)
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.03)
        assert abs(weight.mean().item()) < 0.03 * math.sqrt(2 / fan)


def test_vgg_heads() -> None:
    with torch.device("meta"):
        small = create_model("vgg16", num_classes=200, input_size=64)
        large = create_model("vgg16", num_classes=1000, input_size=224)
        pooled = create_model("vgg16", num_classes=1000, input_size=224, head="linear")
    assert (small.head.in_features, small.head.out_features) == (512, 200)
    assert [m.in_features for m in large.head if isinstance(m, nn.Linear)] == [25088, 4096, 4096]
    assert pooled.head.in_features == 512


def test_dropout_is_absent_unless_asked_for() -> None:
    def dropouts(**kwargs: float) -> list[float]:
        model = create_model("mobilenetv1", width_mult=0.25, **kwargs)
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    assert dropouts() == []
    assert dropouts(dropout=0.2) == [0.2]
