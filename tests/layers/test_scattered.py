"""Compact weights of layers without a sparse form, against the masked layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import precut
from precut.errors import PrecutError
from precut.layers import scatter_, scattered
from precut.supports import Unstructured

LAYERS = {
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5)),
    "1-D": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "3-D": (lambda: nn.Conv3d(2, 3, 2, bias=False), (2, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_scattered_layer_is_the_masked_one(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(shape)
    mask = torch.rand(layer.weight.shape) < 0.4
    masked = copy.deepcopy(layer)
    with torch.no_grad():
        masked.weight.mul_(mask)
    scatter_(layer, Unstructured(mask))
    held = layer.parametrizations.weight.original
    assert held.shape == (int(mask.sum()), 1)
    assert sum(p.numel() for p in layer.parameters()) == int(mask.sum()) + (
        0 if layer.bias is None else len(layer.bias)
    )
    assert torch.equal(layer(x), masked(x))
    layer(x).sum().backward()
    masked(x).sum().backward()
    assert torch.allclose(held.grad.flatten(), masked.weight.grad[mask], atol=1e-6)
    found = scattered(layer)
    assert found is not None
    assert torch.equal(found.mask(), mask)
    for other in (copy.deepcopy(layer), copy.deepcopy(layer).double().float()):
        assert torch.equal(other(x), layer(x))
    assert "index" not in str(list(layer.state_dict()))


def test_it_stays_frozen_and_moves(tmp_path) -> None:
    layer = nn.Conv1d(2, 2, 3).requires_grad_(False)
    scatter_(layer, Unstructured(torch.ones(2, 2, 3)))
    assert not layer.parametrizations.weight.original.requires_grad
    model = nn.Sequential(nn.Conv1d(2, 2, 3), layer)
    path = precut.save(model, tmp_path / "a.safetensors")
    again = precut.load(path, model=nn.Sequential(nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 3)))
    x = torch.randn(1, 2, 9)
    assert torch.equal(again(x), model(x))
    other = nn.Sequential(
        nn.Conv1d(2, 2, 3), scatter_(nn.Conv1d(2, 2, 3), Unstructured(torch.eye(2)[:, :, None].expand(2, 2, 3)))
    )
    with pytest.raises(PrecutError, match="layer '1' of the given model has other compact weights than"):
        precut.load(path, model=other)


def test_its_counts() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, bias=False))
    mask = torch.zeros(4, 6, 3, 3)
    mask[0, :, 1] = 1  # 18 of 216
    x = torch.zeros(1, 4, 5, 5)
    dense = precut.summary(model, x)
    scatter_(model[0], Unstructured(mask))
    found = precut.summary(model, x)
    assert (found.params, found.params_dense, found.bytes_dense) == (18, 216, dense.bytes)
    assert (found.macs, found.macs_dense) == (dense.macs * 18 // 216, dense.macs)
    assert found.layers[0].support == "unstructured"


def test_wrong_uses() -> None:
    with pytest.raises(PrecutError) as raised:
        scatter_(nn.Conv1d(2, 2, 3), Unstructured(torch.ones(2, 2)))
    assert str(raised.value) == ("the mask is for a weight of shape (2, 2); the Conv1d has a weight of shape (2, 2, 3)")
    with pytest.raises(PrecutError) as raised:
        scatter_(nn.ReLU(), Unstructured(torch.ones(2, 2)))
    assert str(raised.value) == "the mask is for a weight of shape (2, 2); the ReLU has no weight of its own"
    assert scattered(nn.ReLU()) is None
