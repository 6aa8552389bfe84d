"""One layer of a model in place of another: the sparse one that a dense one becomes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import prune, skip_init

from precut.errors import PrecutError, unknown
from precut.layers._conv import SparseConv2d
from precut.layers._linear import SparseLinear
from precut.supports import Support

__all__ = ["check_hooks", "replace_layer_", "sparse_like"]

_CONV_METHODS = (nn.Conv2d.forward, nn.Conv2d._conv_forward)


def sparse_like(layer: nn.Module, support: Support) -> SparseConv2d | SparseLinear:
    """A sparse layer with the sizes, bias, dtype, device and mode of an ``nn.Conv2d`` or ``nn.Linear``, and with those
    of its weights that are on ``support``.

    Raises:
        PrecutError: for another kind of layer, or one that computes something else than those two.
    """
    made: SparseConv2d | SparseLinear
    # skip_init, since drawing weights to throw them away would disturb the caller's random numbers.
    if isinstance(layer, nn.Conv2d) and (type(layer).forward, type(layer)._conv_forward) == _CONV_METHODS:
        weight, bias = layer.weight, layer.bias
        made = skip_init(
            SparseConv2d,
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias is not None,
            layer.padding_mode,
            support=support,
            device=weight.device,
            dtype=weight.dtype,
        )
    elif isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        weight, bias = layer.weight, layer.bias
        made = skip_init(
            SparseLinear,
            layer.in_features,
            layer.out_features,
            bias is not None,
            support=support,
            device=weight.device,
            dtype=weight.dtype,
        )
    else:
        raise PrecutError(
            f"a {type(layer).__name__} cannot be made sparse; nn.Conv2d and nn.Linear can, and subclasses that keep "
            "their forward"
        )
    made.set_dense_weight_(weight)
    made.weight.requires_grad_(weight.requires_grad)
    if bias is not None and made.bias is not None:
        with torch.no_grad():
            made.bias.copy_(bias)
        made.bias.requires_grad_(bias.requires_grad)
    return made.train(layer.training)


def replace_layer_(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Puts ``layer`` where the module called ``name`` was, and wherever else that same module is used.

    Raises:
        PrecutError: when the model has no module of this name inside it.
    """
    modules = {key: module for key, module in model.named_modules(remove_duplicate=False) if key}
    if name not in modules:
        raise unknown("layer", name, modules, "model.named_modules()")
    old = modules[name]
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = layer


def check_hooks(name: str, layer: nn.Module) -> None:
    """Raises a PrecutError where a layer has hooks (but those of torch's pruning): a sparse one would lack them."""
    pre_hooks = [hook for hook in layer._forward_pre_hooks.values() if not isinstance(hook, prune.BasePruningMethod)]
    if pre_hooks or layer._forward_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        raise PrecutError(
            f"layer {name!r} has hooks, which a sparse layer in its place would lose; remove them first, or keep the "
            "layer dense"
        )
