"""Parameters and multiply-adds against published numbers, counted here from hooks on the layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from precut.models import create_model


def count(name: str, classes: int, size: int, **kwargs: Any) -> tuple[int, int]:
    """Parameters, and multiply-adds of convolutions and linear layers for one image."""
    macs = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += output[0].numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size)
        elif isinstance(module, nn.Linear):
            macs += module.in_features * module.out_features

    with torch.device("meta"):
        model = create_model(name, num_classes=classes, input_size=size, **kwargs).eval()
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(hook)
        model(torch.empty(1, 3, size, size))
    return sum(parameter.numel() for parameter in model.parameters()), macs


# Exact counts as published with widely used implementations of the same networks.
PARAMETERS = [
    ("resnet18", 1000, 224, {}, 11_689_512),
    ("resnet34", 1000, 224, {}, 21_797_672),
    ("resnet50", 1000, 224, {}, 25_557_032),
    ("resnet101", 1000, 224, {}, 44_549_160),
    ("wide_resnet50_2", 1000, 224, {}, 68_883_240),
    ("resnet18", 10, 32, {}, 11_173_962),
    ("resnet20", 10, 32, {}, 269_722),
    ("resnet20", 10, 32, {"shortcut": "conv_bn"}, 272_474),
    ("resnet32", 10, 32, {}, 464_154),
    ("resnet44", 10, 32, {}, 658_586),
    ("resnet56", 10, 32, {}, 853_018),
    ("resnet110", 10, 32, {}, 1_727_962),
    ("wide_resnet28_10", 10, 32, {}, 36_479_194),
    ("wide_resnet28_10", 100, 32, {}, 36_536_884),
    ("wide_resnet40_4", 10, 32, {}, 8_949_210),
    ("vgg16", 10, 32, {}, 14_728_266),
    ("vgg11", 1000, 224, {}, 132_868_840),
    ("vgg13", 1000, 224, {}, 133_053_736),
    ("vgg16", 1000, 224, {}, 138_365_992),
    ("vgg19", 1000, 224, {}, 143_678_248),
    ("mobilenetv1", 1000, 224, {}, 4_231_976),
    ("mobilenetv1", 10, 32, {}, 3_217_226),
    ("mobilenetv2", 1000, 224, {}, 3_504_872),
    ("shufflenetv2", 1000, 224, {"width_mult": 0.5}, 1_366_792),
    ("shufflenetv2", 1000, 224, {}, 2_278_604),
    ("shufflenetv2", 1000, 224, {"width_mult": 1.5}, 3_503_624),
    ("shufflenetv2", 1000, 224, {"width_mult": 2.0}, 7_393_996),
]


@pytest.mark.parametrize(("name", "classes", "size", "kwargs", "expected"), PARAMETERS)
def test_parameters(name: str, classes: int, size: int, kwargs: dict[str, Any], expected: int) -> None:
    assert count(name, classes, size, **kwargs)[0] == expected


# Published millions of parameters (None where none is known) and of multiply-adds; the last digit given is rounded in
# some sources and cut off in others.
IMAGENET = [
    ("resnet18", {}, "11.69", "1814"),
    ("resnet34", {}, "21.80", "3664"),
    ("resnet50", {}, "25.56", "4089"),
    ("wide_resnet50_2", {}, "68.88", "11398"),
    ("mobilenetv1", {}, "4.23", "569"),
    ("mobilenetv1", {"width_mult": 0.75}, "2.6", "325"),
    ("mobilenetv1", {"width_mult": 0.5}, "1.3", "149"),
    ("mobilenetv1", {"width_mult": 0.25}, "0.5", "41"),
    ("mobilenetv2", {}, "3.505", "300.8"),
    ("mobilenetv2", {"width_mult": 1.4}, "6.109", "582.2"),
    ("mobilenetv2", {"width_mult": 1.1, "repeats": [2, 3, 4, 5, 4, 3, 1]}, "4.305", "419.2"),
    ("mobilenetv2", {"width_mult": 0.75, "repeats": [2, 3, 4, 5, 4, 3, 1]}, "2.754", "265.1"),
    # Zhang et al. 2018, table 2 (1 group), and the table beside the authors' code.
    ("shufflenetv1", {"groups": 1}, None, "143"),
    ("shufflenetv1", {"groups": 3}, "1.9", "138"),
    ("shufflenetv1", {"groups": 8}, "2.4", "138"),
    ("shufflenetv1", {"groups": 3, "width_mult": 2.0}, "5.4", "524"),
    ("shufflenetv1", {"groups": 8, "width_mult": 2.0}, "6.5", "522"),
    ("shufflenetv1", {"groups": 3, "width_mult": 1.5}, "3.4", "292"),
    ("shufflenetv1", {"groups": 8, "width_mult": 1.5}, "4.3", "290"),
    ("shufflenetv1", {"groups": 3, "width_mult": 0.5}, "0.7", "38"),
    ("shufflenetv1", {"groups": 8, "width_mult": 0.5}, "1.0", "40"),
]


@pytest.mark.parametrize(("name", "kwargs", "parameters", "macs"), IMAGENET)
def test_imagenet(name: str, kwargs: dict[str, Any], parameters: str | None, macs: str) -> None:
    found = count(name, 1000, 224, **kwargs)
    for value, expected in zip(found, (parameters, macs), strict=True):
        if expected is not None:
            last_digit = 10.0 ** -len(expected.partition(".")[2])
            assert abs(value / 1e6 - float(expected)) < last_digit


@pytest.mark.parametrize(("width_mult", "millions"), [(0.5, 41), (1.0, 146), (1.5, 299), (2.0, 591)])
def test_shufflenetv2_macs(width_mult: float, millions: int) -> None:
    """Ma et al. 2018, table 8, which counts a little more than convolutions and the head."""
    assert 0.98 * millions < count("shufflenetv2", 1000, 224, width_mult=width_mult)[1] / 1e6 < millions


@pytest.mark.parametrize(
    ("name", "size", "classes", "giga_macs", "mega_parameters"),
    [
        ("resnet18", 32, 10, 0.559, 11.17),
        ("resnet18", 64, 200, 2.227, 11.27),
        ("vgg16", 32, 10, 0.314, 14.73),
        ("vgg16", 64, 200, 1.255, None),
    ],
)
def test_dense_networks_of_the_predefined_sparsity_papers(
    name: str, size: int, classes: int, giga_macs: float, mega_parameters: float | None
) -> None:
    """Kundu et al. 2020; read off the authors' plots, which also count batch norm and activations."""
    parameters, macs = count(name, classes, size)
    assert macs / 1e9 == pytest.approx(giga_macs, rel=0.01)
    if mega_parameters is not None:
        assert round(parameters / 1e6, 2) == mega_parameters


@pytest.mark.parametrize(
    ("name", "mega_parameters"), [("wide_resnet40_2", 2.2), ("wide_resnet16_4", 2.7), ("wide_resnet16_8", 11.0)]
)
def test_wide_resnets_of_the_paper(name: str, mega_parameters: float) -> None:
    """Zagoruyko and Komodakis 2016, tables 4 and 5."""
    assert round(count(name, 10, 32)[0] / 1e6, 1) == mega_parameters


def test_mlperf_tiny_resnet8() -> None:
    """The Keras reference has 78,666 parameters, running statistics of batch norm among them, and 12.5 M
    multiply-adds."""
    parameters, macs = count("resnet8", 10, 32)
    with torch.device("meta"):
        state = create_model("resnet8").state_dict()
    statistics = sum(t.numel() for key, t in state.items() if key.endswith(("running_mean", "running_var")))
    assert parameters + statistics == 78_666
    assert round(macs / 1e6, 1) == 12.5


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_resnets_in_closed_form(depth: int) -> None:
    """2 n convolutions of 9 w^2 in each stage but for the first one of stages 2 and 3 (9 w^2 / 2), batch norm 2 w."""
    n = (depth - 2) // 6
    expected = 9 * 3 * 16 + 2 * 16 + 64 * 10 + 10
    for width in (16, 32, 64):
        narrow_first = 9 * width * width // 2 if width > 16 else 0
        expected += 2 * n * (9 * width * width + 2 * width) - narrow_first
    assert count(f"resnet{depth}", 10, 32)[0] == expected


@pytest.mark.parametrize(("width_mult", "widths"), [(1.0, (64, 256, 256)), (0.5, (32, 128, 128))])
def test_speednet_in_closed_form(width_mult: float, widths: tuple[int, int, int]) -> None:
    a, b, c = widths
    convolutions = 9 * (24 * a + a * a + a * b + b * b + b * c + c * c)
    parameters = (12 * 24 + 24) + convolutions + 4 * (a + b + c) + 10 * c
    # 32 pixels: 31 after the stem, then 15, 7 and 3 after the pools.
    macs = 12 * 24 * 31**2 + 9 * (24 * a * 31**2 + a * a * 15**2 + a * b * 15**2 + b * b * 7**2 + b * c * 7**2)
    macs += 9 * c * c * 3**2 + 10 * c
    assert count("speednet", 10, 32, width_mult=width_mult) == (parameters, macs)
