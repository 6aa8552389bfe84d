"""Real sparse layers from masked ones, for people who come from ``torch.nn.utils.prune``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from precut.errors import PrecutError, unknown
from precut.graph import capture
from precut.layers._read_as_dense import read_as_dense
from precut.layers._replace import check_hooks, sparse_like
from precut.layers._scattered import scatter_
from precut.layers._select import check_unshared, owners_of
from precut.supports import Dense, Unstructured

__all__ = ["from_masks"]


def from_masks(
    model: nn.Module, masks: Mapping[str, torch.Tensor] | None = None, example_inputs: Any = None
) -> nn.Module:
    """A new model with real sparse layers in place of masked ones; its outputs are the same.

    Layers whose weight other code reads as a dense one (an attention's projection) stay what they are and hold what is
    left of it through a parametrization.

    Args:
        model: layers pruned by ``torch.nn.utils.prune`` (``weight_orig`` and ``weight_mask``), or any model with
            ``masks``. It is not changed. Pruned biases keep their zeros, but train again.
        masks: layer names (of nn.Conv2d and nn.Linear) to masks of the weight's shape, non-zero where a weight stays;
            they come before masks in the model.
        example_inputs: what the model takes (a tensor, a tuple of arguments or a dict of them). By it such readers in
            the model's own code are known; without it only those of torch.nn are, and the others fail when the model
            runs.

    Raises:
        PrecutError: when there is no mask at all, or one that does not fit its layer.
    """
    if not isinstance(model, nn.Module):
        raise PrecutError(f"from_masks takes an nn.Module; got {type(model).__name__}")
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, torch.Tensor | None] = {
        name: module._buffers.get("weight_mask") for name, module in modules.items() if _pruned(module)
    }
    for name, mask in (masks or {}).items():
        if name not in modules:
            raise unknown("layer in masks", name, [n for n in modules if n], "model.named_modules()")
        found[name] = mask
    if not found:
        raise PrecutError("from_masks found no mask: no layer has a weight_mask, and no masks={layer: mask} was given")
    owners = owners_of(model)
    for name in found:
        check_unshared(modules[name], owners, "leave them out of the masks (precut.prune keeps shared weights shared)")
    read = read_as_dense(model, None if example_inputs is None else capture(model, example_inputs))
    # torch's pruned modules cannot be deep-copied (their weight is not a leaf), so the layers are rebuilt around a
    # memo that maps each to its sparse replacement.
    memo: dict[int, Any] = {
        id(modules[name]): _sparse(name, modules[name], mask, name in read) for name, mask in found.items()
    }
    return copy.deepcopy(model, memo)


def _pruned(module: nn.Module) -> list[str]:
    """The parameters of a module that torch.nn.utils.prune has put a mask on."""
    names = [name.removesuffix("_orig") for name in module._parameters if name.endswith("_orig")]
    return [name for name in names if f"{name}_mask" in module._buffers]


def _sparse(name: str, module: nn.Module, mask: torch.Tensor | None, dense: bool) -> nn.Module:
    """The layer that takes a masked one's place; its ``weight`` is a ``dense`` tensor where other code reads it."""
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        raise PrecutError(
            f"layer {name!r} with a mask is a {type(module).__name__}; nn.Conv2d and nn.Linear can be made sparse"
        )
    check_hooks(name, module)
    plain = _without_masks(module)
    shape = tuple(plain.weight.shape)
    if mask is not None and not isinstance(mask, torch.Tensor):
        raise PrecutError(f"the mask of layer {name!r} must be a tensor; got {type(mask).__name__}")
    if mask is not None and tuple(mask.shape) != shape:
        raise PrecutError(f"the mask of layer {name!r} has shape {tuple(mask.shape)}; its weight has {shape}")
    try:
        if dense:
            own = _unhooked(plain)
            return own if mask is None else scatter_(own, Unstructured(mask))
        maker = Dense() if mask is None else Unstructured(mask)  # a mask on the bias alone leaves the weight whole
        return sparse_like(plain, maker.support(shape, plain.groups if isinstance(plain, nn.Conv2d) else 1))
    except PrecutError as error:
        raise PrecutError(f"layer {name!r}: {error}") from error


def _without_masks(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """A shallow copy with plain parameters: the pruned weight's original, and the pruned bias with its zeros."""
    pruned = _pruned(module)
    if not pruned:
        return module
    plain = copy.copy(module)
    plain._parameters = dict(module._parameters)
    for name in pruned:
        original, mask = plain._parameters.pop(f"{name}_orig"), module._buffers[f"{name}_mask"]
        assert original is not None
        assert mask is not None
        value = original.detach() if name == "weight" else original.detach() * mask
        plain.__dict__.pop(name, None)  # what the pruning hook computed last
        plain._parameters[name] = nn.Parameter(value, requires_grad=original.requires_grad)
    return plain


def _unhooked(plain: nn.Module) -> nn.Module:
    """A copy without what torch's pruning left: its hooks (there are no others) and masks."""
    made = copy.deepcopy(plain)
    made._forward_pre_hooks.clear()
    for name in [name for name in made._buffers if name.endswith("_mask")]:
        del made._buffers[name]
    return made
