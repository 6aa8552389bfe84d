"""Dense copies of sparse networks."""

import pytest
import torch
from torch import nn

import precut
from precut.layers import SparseLayer, densify


@pytest.mark.parametrize("support", ["PS4_P4", "PSD1_P16", "pSC4", "2:4"])
def test_same_function_without_sparse_layers(support: str) -> None:
    model = precut.sparsify(precut.create_model("resnet8"), support, seed=3).eval()
    dense = densify(model)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(dense(x), model(x))
    assert not any(isinstance(module, SparseLayer) for module in dense.modules())
    assert any(isinstance(module, SparseLayer) for module in model.modules())  # a copy
    numbers = sum(parameter.numel() for parameter in precut.create_model("resnet8").parameters())
    assert sum(parameter.numel() for parameter in dense.parameters()) == numbers


def test_form_of_a_layer() -> None:
    layer = precut.SparseConv2d(
        8, 12, (3, 5), stride=2, padding="valid", dilation=(2, 1), groups=4, bias=True, support="PS4_P4",
        padding_mode="reflect"
    )  # fmt: skip
    layer.weight.requires_grad_(False)
    dense = densify(layer)
    assert isinstance(dense, nn.Conv2d)
    assert not dense.weight.requires_grad
    assert dense.bias.requires_grad
    assert torch.equal(dense.weight, layer.dense_weight())
    x = torch.randn(1, 8, 16, 16)
    torch.testing.assert_close(dense(x), layer(x))


def test_linear_without_bias() -> None:
    model = nn.Sequential(precut.SparseLinear(8, 4, bias=False, support="2:4"))
    dense = densify(model)
    assert isinstance(dense[0], nn.Linear)
    assert dense[0].bias is None
    x = torch.randn(3, 8)
    torch.testing.assert_close(dense(x), model(x))
