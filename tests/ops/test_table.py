"""The table of operators: every one of it against sums written out, and how calls find theirs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from precut import ops
from precut._registry import Registry
from precut.ops import Operator, _table, operators
from precut.supports import NM, CenterOnly, ClassTable, Periodic, Support, SupportMaker

CONVOLUTIONS = [name for name in operators.names() if operators[name].operation == "conv2d"]
LINEARS = [name for name in operators.names() if operators[name].operation == "linear"]
MAKERS: list[SupportMaker] = [
    Periodic(4, 8, full_kernel=True),
    Periodic(1, 4),
    ClassTable([[[], [0, 8]], [[4], list(range(9))]]),
    CenterOnly(),
]


def conv2d_by_sums(
    input: torch.Tensor,
    dense: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """The definition of a convolution: one term a batch item, output, existing weight and place."""
    batch, _, height, width = input.shape
    out, channels, kh, kw = dense.shape
    high = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    wide = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    result = torch.zeros(batch, out, high, wide, dtype=input.dtype)
    for o, y, x in itertools.product(range(out), range(high), range(wide)):
        if bias is not None:
            result[:, o, y, x] += bias[o]
        for i, r, c in itertools.product(range(channels), range(kh), range(kw)):
            row = y * stride[0] - padding[0] + r * dilation[0]
            column = x * stride[1] - padding[1] + c * dilation[1]
            if dense[o, i, r, c] != 0 and 0 <= row < height and 0 <= column < width:
                channel = o // (out // groups) * channels + i
                result[:, o, y, x] += dense[o, i, r, c] * input[:, channel, row, column]
    return result


def dense_weight(support: Support, weight: torch.Tensor) -> torch.Tensor:
    dense = torch.zeros(support.shape, dtype=weight.dtype)
    dense[support.mask()] = weight.flatten()
    return dense


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("maker", MAKERS, ids=str)
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "bias"),
    [
        ([1, 1], [1, 1], [1, 1], 1, True),
        ([2, 2], [1, 1], [1, 1], 1, False),
        ([1, 2], [0, 2], [2, 1], 1, True),
        ([1, 1], [1, 1], [1, 1], 2, True),
    ],
)
def test_conv2d_operators_are_the_sums(
    name: str,
    dtype: torch.dtype,
    maker: SupportMaker,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    bias: bool,
) -> None:
    torch.manual_seed(0)
    support = maker.support((6, 4, 3, 3), groups)
    weight = torch.randn(support.weight_shape, dtype=dtype)
    shift = torch.randn(6, dtype=dtype) if bias else None
    input = torch.randn(2, 4 * groups, 6, 5, dtype=dtype)
    call = (input, weight, shift, None, support.key, [6, 4, 3, 3], stride, padding, dilation, groups)
    if not operators[name].fits(*call):
        pytest.skip(f"{name} is not for this call")
    dense = dense_weight(support, weight)
    expected = conv2d_by_sums(input, dense, shift, stride, padding, dilation, groups)
    torch.testing.assert_close(operators[name].run(*call), expected)


@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("maker", [NM(2, 4), NM(1, 2), Periodic(1, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_operators_are_the_sums(name: str, dtype: torch.dtype, maker: SupportMaker, bias: bool) -> None:
    torch.manual_seed(0)
    support = maker.support((5, 8))
    weight = torch.randn(support.weight_shape, dtype=dtype)
    shift = torch.randn(5, dtype=dtype) if bias else None
    input = torch.randn(2, 3, 8, dtype=dtype)
    call = (input, weight, shift, None, support.key, [5, 8])
    if not operators[name].fits(*call):
        pytest.skip(f"{name} is not for this call")
    dense = dense_weight(support, weight)
    expected = torch.zeros(2, 3, 5, dtype=dtype)
    for o, i in itertools.product(range(5), range(8)):
        expected[..., o] += dense[o, i] * input[..., i]
    torch.testing.assert_close(operators[name].run(*call), expected if shift is None else expected + shift)


@pytest.mark.parametrize("name", operators.names())
def test_names_have_five_parts(name: str) -> None:
    """dtype, operation, support kind, tile, instruction set."""
    parts = name.split("_")
    assert len(parts) == 5
    assert all(parts)
    assert parts[1] == operators[name].operation


def test_the_references_come_first_and_fit_everything() -> None:
    first = {operators[name].operation: name for name in reversed(list(operators))}
    assert first == {"conv2d": "any_conv2d_any_whole_reference", "linear": "any_linear_any_whole_reference"}
    assert all(operators[name].fits("whatever", None, 3) for name in first.values())


def test_the_last_registered_that_fits_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Registry[Operator] = Registry("operator", "")
    for name in operators:
        table.register(name)(operators[name])
    monkeypatch.setattr(_table, "operators", table)
    seen: list[Any] = []

    def run(*args: Any) -> torch.Tensor:
        seen.append(args)
        return torch.tensor(42.0)

    table.register("f32_linear_nm_1x1_test")(Operator("linear", run, lambda input, *_: input.shape[0] == 2))
    support = NM(2, 4).support((4, 4))
    weight = torch.randn(support.weight_shape)
    rest = (weight, None, None, support.key, [4, 4])
    assert ops.choose("linear", torch.randn(2, 4), *rest)[0] == "f32_linear_nm_1x1_test"
    assert ops.choose("linear", torch.randn(3, 4), *rest)[0] == "any_linear_any_whole_reference"
    assert ops.sparse_linear(torch.randn(2, 4), *rest) == 42
    assert len(seen) == 1
    assert ops.sparse_linear(torch.randn(3, 4), *rest).shape == (3, 4)


def test_an_operation_without_operators_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="no operator for conv3d"):
        ops.choose("conv3d")


@pytest.mark.parametrize("bias", [True, False])
def test_sparse_operators_pass_torchs_own_checks(bias: bool) -> None:
    support = Periodic(4, 8, full_kernel=True).support((6, 4, 3, 3))
    weight = torch.randn(support.weight_shape, requires_grad=True)
    shift = torch.randn(6, requires_grad=True) if bias else None
    input = torch.randn(2, 4, 5, 5, requires_grad=True)
    call = (input, weight, shift, None, support.key, [6, 4, 3, 3], [1, 1], [1, 1], [1, 1], 1)
    assert set(torch.library.opcheck(torch.ops.precut.sparse_conv2d.default, call).values()) == {"SUCCESS"}
    support = NM(2, 4).support((6, 8))
    weight = torch.randn(support.weight_shape, requires_grad=True)
    linear_call = (torch.randn(3, 8, requires_grad=True), weight, shift, None, support.key, [6, 8])
    assert set(torch.library.opcheck(torch.ops.precut.sparse_linear.default, linear_call).values()) == {"SUCCESS"}
