"""Sparse layers back into dense ones, zero where nothing existed: for engines that know no sparsity."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import skip_init

from precut.layers._base import SparseLayer
from precut.layers._conv import SparseConv2d
from precut.layers._linear import SparseLinear
from precut.layers._replace import replace_layer_

__all__ = ["densify"]


def densify(model: nn.Module) -> nn.Module:
    """A copy of the model in which every sparse layer is a plain ``nn.Conv2d`` or ``nn.Linear`` with zeros filled in.

    It computes the same and costs what a dense network costs.
    """
    if isinstance(model, (SparseConv2d, SparseLinear)):
        return _dense_like(model)
    made = copy.deepcopy(model)
    for name, layer in list(made.named_modules()):
        if isinstance(layer, (SparseConv2d, SparseLinear)):
            replace_layer_(made, name, _dense_like(layer))
    return made


@torch.no_grad()
def _dense_like(layer: SparseLayer) -> nn.Module:
    made: nn.Module
    where = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, SparseConv2d):
        made = skip_init(
            nn.Conv2d,
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
            **where,
        )
    else:
        rows, columns = layer.dense_shape
        made = skip_init(nn.Linear, columns, rows, bias=layer.bias is not None, **where)
    made.weight.copy_(layer.dense_weight())  # type: ignore[operator]
    made.weight.requires_grad_(layer.weight.requires_grad)
    if layer.bias is not None:
        made.bias.copy_(layer.bias)  # type: ignore[operator]
        made.bias.requires_grad_(layer.bias.requires_grad)
    return made.train(layer.training)
