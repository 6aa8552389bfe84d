"""SparseConv2d against torch's convolution with masked weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from layers.twins import check_same, dense_by_mask, twin_of
from precut.layers import SparseConv2d
from precut.ops import sparse_conv2d
from precut.supports import ClassTable, SupportMaker, Unstructured, parse
from supports.examples import cases, makers_for, random_mask

pytestmark = pytest.mark.filterwarnings("ignore:the variants of:UserWarning")

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def conv(support: Any = "PSD4_P8", *sizes: Any, **options: Any) -> SparseConv2d:
    torch.manual_seed(0)
    return SparseConv2d(*(sizes or (8, 12, 3)), support=support, dtype=torch.float64, **options)


def images(channels: int = 8, side: int = 9) -> torch.Tensor:
    return torch.randn(2, channels, side, side + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("maker", "shape", "groups"), [case for case in cases() if len(case.values[1]) == 4])
def test_every_support_and_kernel(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    out, channels, *kernel = shape
    layer = conv(maker, channels * groups, out, tuple(kernel), groups=groups, padding=2)
    check_same(layer, images(channels * groups, 7), **EXACT)


@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2), (3, 1)])
@pytest.mark.parametrize("padding", [0, 1, (0, 2), (3, 1)])
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)])
def test_stride_padding_dilation(stride: Any, padding: Any, dilation: Any) -> None:
    check_same(conv(stride=stride, padding=padding, dilation=dilation), images(), **EXACT)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [3, 2, (4, 3), (1, 5)])
@pytest.mark.parametrize("dilation", [1, 2, (3, 2)])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_padding_by_name(padding: str, kernel: Any, dilation: Any) -> None:
    layer = conv("PSD1_P8", 8, 12, kernel, padding=padding, dilation=dilation)
    check_same(layer, images(side=12), **EXACT)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, (2, 0), "same", "valid"])
@pytest.mark.parametrize("kernel", [3, (3, 5)])
def test_padding_modes(mode: str, padding: Any, kernel: Any) -> None:
    check_same(conv("PS2_P6", 8, 12, kernel, padding=padding, padding_mode=mode), images(), **EXACT)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("support", ["PSD4_P8", "pSC2", "center_P4"])
def test_groups_and_bias(groups: int, bias: bool, support: str) -> None:
    layer = conv(support, 8, 16, 3, groups=groups, bias=bias, padding=1)
    assert (layer.bias is not None) == bias
    check_same(layer, images(), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("support", ["PSD4_P8", Unstructured(random_mask((12, 8, 3, 3)))], ids=str)
def test_dtypes(dtype: torch.dtype, support: Any) -> None:
    layer = SparseConv2d(8, 12, 3, padding=1, support=support, dtype=dtype)
    loose = {"rtol": 3e-2, "atol": 3e-2} if dtype in (torch.bfloat16, torch.float16) else {"rtol": 1e-4, "atol": 1e-4}
    check_same(layer, images().to(dtype), **loose)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_convolution(data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 3))
    channels, out = groups * data.draw(st.integers(1, 5)), groups * data.draw(st.integers(1, 6))
    kernel = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    shape = (out, channels // groups, *kernel)
    maker = data.draw(st.sampled_from(list(makers_for(shape))))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    options = {
        "stride": data.draw(pair),
        "dilation": data.draw(pair),
        "padding": data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        "padding_mode": data.draw(st.sampled_from(["zeros", "replicate", "circular"])),
        "bias": data.draw(st.booleans()),
    }
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, options["dilation"], strict=True)]
    assume(all(size <= 7 + 2 * pad for size, pad in zip(reach, options["padding"], strict=True)))
    layer = conv(maker, channels, out, kernel, groups=groups, **options)
    check_same(layer, images(channels, 7), **EXACT)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_images_without_a_batch(mode: str) -> None:
    layer = conv(padding=1, padding_mode=mode)
    x = images()[0]
    output = layer(x)
    assert output.shape == (12, 9, 10)
    torch.testing.assert_close(output, twin_of(layer)(x))
    torch.testing.assert_close(output, layer(x[None])[0])


@pytest.mark.parametrize("support", ["PS4_P4", Unstructured(random_mask((3, 2, 3, 3)))], ids=str)
@pytest.mark.parametrize("groups", [1, 3])
def test_derivatives_of_any_order(support: Any, groups: int) -> None:
    if groups == 3 and isinstance(support, Unstructured):
        support = Unstructured(random_mask((3, 1, 3, 3)))
    layer = conv(support, 2 if groups == 1 else 3, 3, 3, groups=groups)

    def call(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        shape = list(layer.dense_shape)
        return sparse_conv2d(
            input, weight, bias, layer.support_index, layer._key, shape, [2, 1], [1, 1], [1, 1], groups
        )

    x = torch.randn(1, layer.in_channels, 3, 3, dtype=torch.float64, requires_grad=True)
    assert layer.bias is not None
    assert torch.autograd.gradcheck(call, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(call, (x, layer.weight, layer.bias))


def test_a_gradient_penalty_trains() -> None:
    """Double backward through the module, as a gradient penalty or GraSP needs it: equal to the dense twin's."""
    layer = conv(padding=1)
    twin = twin_of(layer)

    def penalty_gradient(module: Any) -> torch.Tensor:
        loss = module(images()).pow(3).sum()
        (first,) = torch.autograd.grad(loss, module.weight, create_graph=True)
        if module is twin:
            first = first[layer.support.mask()]
        return torch.autograd.grad(first.square().sum(), module.weight)[0]

    expected = penalty_gradient(twin)[layer.support.mask()]
    torch.testing.assert_close(penalty_gradient(layer).flatten(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    layer = SparseConv2d(8, 12, 3, padding=1, support="PSD4_P8")
    twin, x = twin_of(layer), images().float()
    with torch.autocast("cpu", dtype=dtype):
        output, expected = layer(x), twin(x)
    assert output.dtype is expected.dtype is dtype
    torch.testing.assert_close(output, expected)
    output.float().square().sum().backward()
    expected.float().square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype is torch.float32
    assert twin.weight.grad is not None
    torch.testing.assert_close(
        layer.weight.grad.flatten(), twin.weight.grad[layer.support.mask()], rtol=2e-2, atol=2e-1
    )


def test_channels_last() -> None:
    layer = conv(padding=1).to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    output = layer(x)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, twin_of(layer)(images()))
    check_same(layer, x, **EXACT)


def test_a_layer_without_any_weight_gives_its_bias() -> None:
    layer = conv(ClassTable([[[]]]), padding=1)
    assert layer.weight.shape == (0, 1)
    x = images().requires_grad_()
    output = layer(x)
    assert layer.bias is not None
    assert torch.equal(output, layer.bias[None, :, None, None].expand_as(output))
    output.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    torch.optim.AdamW(layer.parameters()).step()


def test_attributes_are_those_of_a_convolution() -> None:
    layer = conv("PS4_P4", 8, 12, (3, 5), stride=2, padding=(1, 2), dilation=(1, 2), groups=2)
    twin = twin_of(layer)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(layer, name) == getattr(twin, name), name
    assert layer.padding_mode == twin.padding_mode == "zeros"
    assert layer.dense_shape == tuple(twin.weight.shape)
    assert layer.precut_op == "conv2d"


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            conv(padding=1),
            "SparseConv2d(8, 12, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), support=PSD4_P8, weights=444/864)",
        ),
        (
            conv("pSC2_seed3", 8, 12, 3, stride=2, groups=4, bias=False),
            "SparseConv2d(8, 12, kernel_size=(3, 3), stride=(2, 2), groups=4, bias=False, support=pSC2_seed3, "
            "weights=48/216)",
        ),
        (
            conv("center", 8, 12, 3, padding="same", dilation=2, padding_mode="reflect"),
            "SparseConv2d(8, 12, kernel_size=(3, 3), stride=(1, 1), padding=same, dilation=(2, 2), "
            "padding_mode=reflect, support=center, weights=96/864)",
        ),
    ],
)
def test_repr(layer: SparseConv2d, text: str) -> None:
    assert repr(layer) == text


def test_dense_weight_is_a_differentiable_copy() -> None:
    layer = conv()
    dense = layer.dense_weight()
    assert torch.equal(dense, dense_by_mask(layer))
    (gradient,) = torch.autograd.grad(dense.square().sum(), layer.weight)
    torch.testing.assert_close(gradient, 2 * layer.weight)
    before = layer.weight.detach().clone()
    dense.detach().fill_(7)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("maker", [parse("PSD4_P8"), Unstructured(random_mask((64, 32, 3, 3)))], ids=str)
def test_default_weights_have_the_fan_in_that_exists(maker: SupportMaker) -> None:
    """torch's default for a dense layer is uniform in +-1/sqrt(fan-in); a filter's fan-in is what it has of weights."""
    torch.manual_seed(0)
    layer = SparseConv2d(32, 64, 3, support=maker)
    counts = layer.support.mask().flatten(1).sum(1)
    dense = dense_by_mask(layer)
    assert layer.bias is not None
    for o, count in enumerate(counts.tolist()):
        bound = 1 / math.sqrt(max(1, count))
        assert dense[o].abs().max() <= bound
        assert layer.bias[o].abs() <= bound
    scaled = dense.flatten(1) * counts.sqrt()[:, None]
    values = scaled[layer.support.mask().flatten(1)]
    assert values.std() == pytest.approx(1 / math.sqrt(3), rel=0.03)
    assert values.abs().max() > 0.99


def test_reset_parameters_repeats_from_a_generator() -> None:
    layer = conv()
    layer.reset_parameters(torch.Generator().manual_seed(3))
    first = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, first)
    layer.reset_parameters(torch.Generator().manual_seed(3))
    assert torch.equal(layer.weight, first)
