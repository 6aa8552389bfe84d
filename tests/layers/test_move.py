"""move_support_ and keep_dense_grad_: against dense tensors masked by hand, and torch's own gradient of a dense layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layers.twins import dense_by_mask, twin_of
from precut.errors import PrecutError
from precut.layers import SparseConv2d, SparseLinear, SupportMove
from precut.supports import ClassTable, Dense, Unstructured, parse
from supports.examples import makers_for, random_mask

pytestmark = pytest.mark.filterwarnings("ignore:the variants of:UserWarning")
SHAPE = (10, 7, 3, 3)


def conv(support: Any, **options: Any) -> SparseConv2d:
    torch.manual_seed(0)
    return SparseConv2d(SHAPE[1], SHAPE[0], 3, padding=1, support=support, **options)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_from_any_support_to_any_other(data: st.DataObject) -> None:
    makers = list(makers_for(SHAPE))
    first, second = data.draw(st.sampled_from(makers)), data.draw(st.sampled_from(makers))
    layer = conv(first)
    layer.weight.grad = torch.randn(layer.weight.shape)
    gradient = torch.zeros(SHAPE)
    gradient[layer.support.mask()] = layer.weight.grad.flatten()
    before, parameter, mask = dense_by_mask(layer), layer.weight, layer.support.mask()
    own = layer.weight.detach().flatten().clone()

    move = layer.move_support_(second)

    after = second.support(SHAPE).mask()
    assert torch.equal(layer.support.mask(), after)
    assert torch.equal(layer.dense_weight(), before * after)
    assert layer.weight is parameter
    assert layer.weight.is_leaf
    assert tuple(layer.weight.shape) == layer.support.weight_shape == move.new_shape
    assert torch.equal(layer.weight.grad.flatten(), (gradient * after)[after])
    assert (move.kept, move.grown) == (int((mask & after).sum()), int((after & ~mask).sum()))
    for new, origin in enumerate(move.origin.tolist()):
        assert layer.weight.flatten()[new] == (own[origin] if origin >= 0 else 0)
    assert (layer.support_index is None) == (not isinstance(second, Unstructured))


def test_a_mask_and_a_name_will_do() -> None:
    layer = conv("PS4_P4")
    mask = random_mask(SHAPE)
    layer.move_support_(mask)
    assert torch.equal(layer.support.mask(), mask)
    layer.move_support_("center")
    assert layer.weight.shape == (10, 7)
    linear = SparseLinear(8, 6, support="2:4")
    linear.move_support_(torch.eye(6, 8))
    assert linear.weight.shape == (6, 1)


@pytest.mark.parametrize("other", [parse("PS2_P6"), Unstructured(random_mask(SHAPE))], ids=str)
def test_training_goes_on_while_an_old_loss_is_held(other: Any) -> None:
    """Autograd has seen the former shape, and the old graph still lives."""
    layer = conv("PS4_P4")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(2, 7, 5, 5)
    held = layer(x).square().mean()
    held.backward()
    layer.move_support_(other)
    loss = layer(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == layer.weight.shape
    before = layer.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(layer.weight, before)
    assert held.grad_fn is not None


@pytest.mark.parametrize("options", [{}, {"stride": 2, "dilation": 2}, {"groups": 1, "padding_mode": "circular"}])
@pytest.mark.parametrize("maker", [parse("PSD4_P8"), ClassTable([[[], [0, 1, 2]], [[4], []]])], ids=str)
def test_the_dense_gradient_is_that_of_a_dense_layer(maker: Any, options: dict[str, Any]) -> None:
    layer = conv(maker, dtype=torch.float64, **options)
    twin = twin_of(layer)
    x = torch.randn(3, 7, 8, 8, dtype=torch.float64)
    layer.keep_dense_grad_()
    for _ in range(2):  # summed, as .grad is
        layer(x).square().sum().backward()
        twin(x).square().sum().backward()
    assert layer.dense_grad is not None
    torch.testing.assert_close(layer.dense_grad, twin.weight.grad)
    torch.testing.assert_close(layer.weight.grad.flatten(), twin.weight.grad[layer.support.mask()])
    layer.keep_dense_grad_(False)
    assert layer.dense_grad is None
    layer(x).sum().backward()
    assert layer.dense_grad is None


def test_watching_changes_no_bit() -> None:
    x = torch.randn(4, 7, 6, 6)
    gradients = []
    for watch in (False, True):
        layer = conv("PSD4_P8")
        layer.keep_dense_grad_(watch)
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(x).float().square().sum()
        loss.backward()
        gradients.append(layer.weight.grad)
    assert torch.equal(*gradients)


def test_linear_layers_and_frozen_weights_tell_it_too() -> None:
    layer = SparseLinear(8, 6, support="2:4")
    twin = nn.functional.linear
    layer.weight.requires_grad_(False)
    layer.keep_dense_grad_()
    x = torch.randn(3, 8)
    layer(x).square().sum().backward()
    dense = layer.dense_weight().requires_grad_()
    twin(x, dense, layer.bias).square().sum().backward()
    torch.testing.assert_close(layer.dense_grad, dense.grad)
    with torch.no_grad():
        layer(x)


def test_carry_refuses_another_shape() -> None:
    move = conv("PS4_P4").move_support_(random_mask(SHAPE))
    assert isinstance(move, SupportMove)
    with pytest.raises(PrecutError) as caught:
        move.carry(torch.zeros(3))
    assert str(caught.value) == (
        "a tensor that moves with a weight must have the weight's former shape (10, 28); got (3,)"
    )


def test_a_support_for_another_layer() -> None:
    layer = conv("PS4_P4")
    before = layer.weight.detach().clone()
    with pytest.raises(PrecutError) as caught:
        layer.move_support_(Dense().support((10, 8, 3, 3)))
    assert str(caught.value) == (
        "the support is for a weight of shape (10, 8, 3, 3) in 1 groups; this layer's is (10, 7, 3, 3) in 1"
    )
    assert torch.equal(layer.weight, before)
    assert layer.support.maker == parse("PS4_P4")
