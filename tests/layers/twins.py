"""Dense layers of torch with the weights of a sparse one and zeros elsewhere: what sparse layers are held against."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from precut.layers import SparseConv2d, SparseLayer, SparseLinear


def dense_by_mask(layer: SparseLayer) -> torch.Tensor:
    """The dense weight from the compact one, by nothing but the mask."""
    dense = torch.zeros(layer.dense_shape, dtype=layer.weight.dtype)
    dense[layer.support.mask()] = layer.weight.detach().flatten()
    return dense


def twin_of(layer: SparseConv2d | SparseLinear) -> nn.Conv2d | nn.Linear:
    """A dense layer of torch that computes the same."""
    twin: Any
    if isinstance(layer, SparseConv2d):
        twin = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            dtype=layer.weight.dtype,
        )
    else:
        twin = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, dtype=layer.weight.dtype)
    with torch.no_grad():
        twin.weight.copy_(dense_by_mask(layer))
        if layer.bias is not None:
            twin.bias.copy_(layer.bias)
    return twin


def check_same(layer: SparseConv2d | SparseLinear, input: torch.Tensor, **tolerance: float) -> None:
    """Output and gradients (input, weight, bias) of the layer are its twin's; gradients off the support are dropped."""
    twin = twin_of(layer)
    ours, theirs = input.clone().requires_grad_(), input.clone().requires_grad_()
    output, expected = layer(ours), twin(theirs)
    assert output.dtype is expected.dtype
    torch.testing.assert_close(output, expected, **tolerance)
    weights = torch.randn(expected.shape, dtype=torch.float64).to(expected)
    layer.zero_grad()
    output.backward(weights)
    expected.backward(weights)
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, **tolerance)
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == layer.weight.shape
    assert twin.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad.flatten(), twin.weight.grad[layer.support.mask()], **tolerance)
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, twin.bias.grad, **tolerance)
