"""SparseLinear against torch's linear layer with masked weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layers.twins import check_same, dense_by_mask
from precut.layers import SparseLinear
from precut.ops import sparse_linear
from precut.supports import NM, SupportMaker, Unstructured
from supports.examples import makers_for, random_mask

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("maker", list(makers_for((6, 12))), ids=lambda maker: f"{maker.kind}-{maker}")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_forward_and_gradients(maker: SupportMaker, bias: bool, lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = SparseLinear(12, 6, bias, support=maker, dtype=torch.float64)
    check_same(layer, torch.randn(*lead, 12, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("maker", [NM(2, 4), Unstructured(random_mask((3, 8)))], ids=str)
def test_derivatives_of_any_order(maker: SupportMaker) -> None:
    layer = SparseLinear(8, 3, support=maker, dtype=torch.float64)

    def call(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return sparse_linear(input, weight, bias, layer.support_index, layer._key, [3, 8]).pow(3)

    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert layer.bias is not None
    assert torch.autograd.gradcheck(call, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(call, (x, layer.weight, layer.bias))


def test_attributes_and_repr() -> None:
    layer = SparseLinear(12, 6, support="2:4")
    assert (layer.in_features, layer.out_features, layer.dense_shape, layer.precut_op) == (12, 6, (6, 12), "linear")
    assert layer.weight.shape == (6, 6)
    assert torch.equal(layer.dense_weight(), dense_by_mask(layer))
    assert repr(layer) == "SparseLinear(12, 6, bias=True, support=2:4, weights=36/72)"
