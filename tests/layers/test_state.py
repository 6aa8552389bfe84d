"""What a sparse layer keeps and how it moves: state dicts, copies, devices, dtypes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from layers.twins import dense_by_mask
from precut.layers import SparseConv2d, SparseLinear
from precut.supports import Unstructured
from supports.examples import random_mask

SUPPORTS = ["PSD4_P8", "pSC2", Unstructured(random_mask((12, 8, 3, 3)))]


def conv(support: Any, **options: Any) -> SparseConv2d:
    return SparseConv2d(8, 12, 3, padding=1, support=support, **options)


@pytest.fixture(params=SUPPORTS, ids=str)
def layer(request: pytest.FixtureRequest) -> SparseConv2d:
    torch.manual_seed(0)
    return conv(request.param)


def test_state_is_weight_and_bias_alone(layer: SparseConv2d) -> None:
    state = layer.state_dict()
    assert set(state) == {"weight", "bias"}
    assert sum(value.numel() for value in state.values()) == layer.support.nnz + 12


def test_only_supports_that_are_bits_have_a_buffer() -> None:
    """DistributedDataParallel broadcasts every buffer at every step."""
    for support in ("PSD4_P8", "pSC2", "center_P4", "2:4", "dense"):
        assert list(conv(support).buffers()) == []
    ((name, buffer),) = conv(SUPPORTS[2]).named_buffers()
    assert (name, buffer.dtype) == ("support_index", torch.int32)
    assert buffer.tolist() == random_mask((12, 8, 3, 3)).flatten().nonzero().flatten().tolist()


def test_saved_state_loads(layer: SparseConv2d) -> None:
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = conv(layer.support)
    assert not torch.equal(other.weight, layer.weight)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("assign", [False, True])
def test_dense_state_loads_projected(layer: SparseConv2d, assign: bool) -> None:
    dense = nn.Conv2d(8, 12, 3, padding=1)
    state = dense.state_dict()
    result = layer.load_state_dict(state, strict=True, assign=assign)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    mask = layer.support.mask()
    assert torch.equal(layer.dense_weight(), torch.where(mask, dense.weight, torch.zeros(())))
    assert layer.weight.shape == layer.support.weight_shape
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.is_leaf
    assert layer.weight.requires_grad
    assert state["weight"].shape == (12, 8, 3, 3)  # the caller's own is as it was
    x = torch.randn(2, 8, 5, 5)
    expected = nn.functional.conv2d(x, dense.weight * mask, dense.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_dense_state_loads_inside_a_network(layer: SparseConv2d) -> None:
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 12, 3), nn.Flatten(), nn.Linear(12, 6)))
    linear = SparseLinear(12, 6, support="2:4")
    sparse = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(layer, nn.Flatten(), linear))
    sparse.load_state_dict({**dense.state_dict(keep_vars=True)}, strict=True)
    assert torch.equal(layer.dense_weight(), dense[1][0].weight * layer.support.mask())
    assert torch.equal(linear.dense_weight(), dense[1][2].weight * linear.support.mask())
    assert layer.weight.is_leaf


def test_state_of_another_shape_does_not_load(layer: SparseConv2d) -> None:
    before = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict(nn.Conv2d(8, 13, 3).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict({"weight": torch.zeros(3, 4), "bias": torch.zeros(12)})
    assert torch.equal(layer.weight, before)


def test_set_dense_weight(layer: SparseConv2d) -> None:
    dense = torch.randn(12, 8, 3, 3)
    layer.set_dense_weight_(dense)
    assert torch.equal(layer.dense_weight(), dense * layer.support.mask())
    layer.set_dense_weight_(dense.to(memory_format=torch.channels_last).double())
    assert torch.equal(layer.dense_weight(), dense * layer.support.mask())


def test_a_deep_copy_is_another_layer_with_the_same_support(layer: SparseConv2d) -> None:
    twin = copy.deepcopy(layer)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(twin(x), layer(x))
    assert twin.support is layer.support
    with torch.no_grad():
        twin.weight.zero_()
    assert layer.weight.abs().max() > 0
    network = nn.Sequential(layer, nn.ReLU(), layer)
    copied = copy.deepcopy(network)
    assert copied[0] is copied[2]
    assert copied[0] is not layer


def test_a_whole_module_can_be_pickled_between_processes(layer: SparseConv2d) -> None:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(again(x), layer(x))
    assert again.support == layer.support


@pytest.mark.parametrize("move", [lambda m: m.half(), lambda m: m.to(torch.float16), lambda m: m.type(torch.float16)])
def test_changing_the_dtype_keeps_the_support(layer: SparseConv2d, move: Any) -> None:
    dense = layer.dense_weight().detach()
    assert move(layer) is layer
    assert layer.weight.dtype is torch.float16
    assert torch.equal(layer.dense_weight(), dense.half())
    if layer.support_index is not None:
        assert layer.support_index.dtype is torch.int32
    assert layer.double().bias is not None
    assert torch.equal(layer.dense_weight(), dense.half().double())


def test_by_way_of_meta(layer: SparseConv2d) -> None:
    """The deferred way: build on "meta", make room with to_empty, load."""
    state = layer.state_dict()
    with torch.device("meta"):
        built = conv(layer.support.maker)
        assert built(torch.empty(2, 8, 5, 5)).shape == (2, 12, 5, 5)
    assert all(value.is_meta for value in (*built.parameters(), *built.buffers()))
    built.to_empty(device="cpu")
    built.load_state_dict(state)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(built(x), layer(x))
    gone = copy.deepcopy(layer).to("meta")
    assert gone.dense_weight().is_meta
    assert gone(torch.empty(2, 8, 5, 5, device="meta")).shape == (2, 12, 5, 5)


def test_state_for_meta_layers_can_be_assigned(layer: SparseConv2d) -> None:
    dense = nn.Conv2d(8, 12, 3)
    built = conv(layer.support.maker, device="meta")
    built.load_state_dict(dense.state_dict(), assign=True)
    assert torch.equal(built.weight.flatten(), dense.weight[layer.support.mask()])
    x = torch.randn(2, 8, 5, 5)
    expected = nn.functional.conv2d(x, dense.weight * layer.support.mask(), dense.bias, padding=1)
    torch.testing.assert_close(built(x), expected)


def test_apply_and_modes_reach_sparse_layers(layer: SparseConv2d) -> None:
    seen: list[nn.Module] = []
    network = nn.Sequential(nn.ReLU(), layer)
    network.apply(seen.append)  # type: ignore[arg-type]
    assert layer in seen
    network.eval()
    assert not layer.training
    network.requires_grad_(False)
    assert not layer.weight.requires_grad


def test_functional_call_swaps_the_weight(layer: SparseConv2d) -> None:
    x = torch.randn(2, 8, 5, 5)
    doubled = torch.func.functional_call(layer, {"weight": 2 * layer.weight, "bias": 2 * layer.bias}, (x,))  # type: ignore[operator]
    torch.testing.assert_close(doubled, 2 * layer(x))


def test_weight_lies_in_c_order_of_the_dense_weight(layer: SparseConv2d) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, layer.support.nnz + 1).view_as(layer.weight))
    dense = dense_by_mask(layer)
    assert torch.equal(layer.dense_weight(), dense)
    existing = dense[dense != 0]
    assert torch.equal(existing, existing.sort().values)


def test_a_bound_support_may_be_given(layer: SparseConv2d) -> None:
    assert conv(layer.support).support is layer.support
