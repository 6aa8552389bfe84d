"""The pruned network: the model's copy with real sparse layers."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from precut.errors import PrecutError
from precut.layers import check_hooks, read_as_dense, scatter_, sparse_like
from precut.pruning._network import Layer, Network
from precut.supports import Support, SupportMaker, Unstructured

__all__ = ["has_sparse_form", "read_elsewhere", "sparse_model"]

_CONV = (nn.Conv2d.forward, nn.Conv2d._conv_forward)


def has_sparse_form(layer: nn.Module) -> bool:
    """Whether a layer becomes a SparseConv2d or a SparseLinear."""
    if isinstance(layer, nn.Conv2d):
        return (type(layer).forward, type(layer)._conv_forward) == _CONV
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def read_elsewhere(network: Network) -> set[str]:
    """The layers whose weight other code than the layer's own reads, and so expects dense; of a model that cannot be
    captured only those that torch.nn's own modules read."""
    try:
        graph = network.graph
    except PrecutError:
        graph = None
    read = read_as_dense(network.model, graph)
    return {name for name, layer in network.layers.items() if read & {name, *layer.aliases}}


def sparse_model(
    model: nn.Module, layers: Mapping[str, Layer], makers: Mapping[str, SupportMaker], dense: Collection[str] = ()
) -> nn.Module:
    """A copy of ``model`` in which the layers have only the weights of their supports. Layers without a sparse form hold
    them through a parametrization; weights and biases that were shared still are.

    Args:
        dense: layers whose ``weight`` must still be read as a dense one: through a parametrization, too.

    Raises:
        PrecutError: for a layer with hooks, which would be lost.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    memo: dict[int, Any] = {}
    for name, layer in layers.items():
        first: Any = None
        for path in (name, *layer.aliases):
            check_hooks(path, modules[path])
            made = _made(modules[path], makers[name], layer, name in dense)
            if first is not None:
                _share_(first, made)
            first = first or made
            memo[id(modules[path])] = made
            bias: Any = getattr(modules[path], "bias", None)
            if bias is not None:
                made._parameters["bias"] = memo.setdefault(id(bias), made.bias)
    return copy.deepcopy(model, memo)


def _made(module: nn.Module, maker: SupportMaker, layer: Layer, dense: bool) -> nn.Module:
    if has_sparse_form(module) and not dense:
        try:
            return sparse_like(module, Support(maker, layer.shape, layer.groups))
        except PrecutError as error:
            raise PrecutError(f"layer {layer.name!r}: {error}") from error
    if not isinstance(maker, Unstructured):
        shown = "has a weight that other layers read as a dense one" if dense else f"is a {type(module).__name__}"
        raise PrecutError(
            f"layer {layer.name!r} {shown}, which no structure fits; keep it as it is: ignored_layers=[{layer.name!r}]"
        )
    return scatter_(copy.deepcopy(module), maker)


def _share_(first: nn.Module, other: nn.Module) -> None:
    """Gives ``other`` the compact weight of ``first``."""
    if "weight" in first._parameters:
        other._parameters["weight"] = first._parameters["weight"]
    else:
        inner = "parametrizations.weight"
        other.get_submodule(inner)._parameters["original"] = first.get_submodule(inner)._parameters["original"]
