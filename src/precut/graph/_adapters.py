"""How the channels of one layer are taken: one row a layer type, and the same for bare parameters.

"Taking" covers permuting, restricting and dropping: new channel j becomes what channel ``index[j]`` was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from precut.errors import PrecutError, unknown

__all__ = ["Memo", "has_adapter", "set_tensor_", "take_channels_", "take_tensor"]

# What a tensor became, by (id of the old tensor, dimension): parameters that several modules share stay shared. The old
# tensors are kept in it, so that no id is used twice.
Memo = dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]


def take_tensor(
    tensor: torch.Tensor, dim: int, index: torch.Tensor, groups: int = 1, memo: Memo | None = None
) -> torch.Tensor:
    """A new tensor of the positions ``index`` along ``dim``; a Parameter of a Parameter, with its gradient.

    Args:
        index: int64; with ``groups`` above 1 it counts channels over all groups, while ``dim`` has size channels /
            groups and the other of the first two dimensions is divided into the groups.
    """
    if memo is not None and (id(tensor), dim) in memo:
        return memo[id(tensor), dim][1]
    with torch.no_grad():
        new = _select(tensor.detach(), dim, index.to(tensor.device), groups)
        if isinstance(tensor, nn.Parameter):
            gradient = tensor.grad
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            if gradient is not None:
                new.grad = _select(gradient, dim, index.to(gradient.device), groups)
    if memo is not None:
        memo[id(tensor), dim] = (tensor, new)
    return new


def _select(tensor: torch.Tensor, dim: int, index: torch.Tensor, groups: int) -> torch.Tensor:
    if groups == 1:
        new = tensor.index_select(dim, index)
    else:
        inner = tensor.shape[dim]
        blocks = tensor.chunk(groups, 1 - dim)
        picks = index.reshape(groups, -1) - inner * torch.arange(groups, device=index.device)[:, None]
        new = torch.cat([block.index_select(dim, pick) for block, pick in zip(blocks, picks, strict=True)], 1 - dim)
    last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return new.contiguous(memory_format=torch.channels_last) if last else new


def set_tensor_(module: nn.Module, name: str, new: torch.Tensor) -> None:
    """Puts a parameter or buffer in the place of the one called ``name``."""
    store: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
    store[name] = new


def _take_(
    module: nn.Module, names: tuple[str, ...], dim: int, index: torch.Tensor, memo: Memo | None, groups: int = 1
) -> None:
    for name in names:
        tensor = module._parameters.get(name, module._buffers.get(name))
        if tensor is not None:
            set_tensor_(module, name, take_tensor(tensor, dim, index, groups, memo))


def _conv(module: Any, axis: str, index: torch.Tensor, memo: Memo | None) -> None:
    out_dim, in_dim = (1, 0) if module.transposed else (0, 1)
    if axis == "out" and module.groups > 1 and module.groups == module.in_channels:
        # Depthwise: rows belong to input channels, which come and go with them.
        multiplier = module.out_channels // module.groups
        _take_(module, ("weight", "bias"), 0, index, memo)
        module.out_channels = len(index)
        module.groups = module.in_channels = len(index) // multiplier
    elif axis == "out":
        _take_(module, ("weight",), out_dim, index, memo, module.groups if module.transposed else 1)
        _take_(module, ("bias",), 0, index, memo)
        module.out_channels = len(index)
    else:
        _take_(module, ("weight",), in_dim, index, memo, 1 if module.transposed else module.groups)
        module.in_channels = len(index)


def _linear(module: Any, axis: str, index: torch.Tensor, memo: Memo | None) -> None:
    if axis == "out":
        _take_(module, ("weight", "bias"), 0, index, memo)
        module.out_features = len(index)
    else:
        _take_(module, ("weight",), 1, index, memo)
        module.in_features = len(index)


def _norm(module: Any, axis: str, index: torch.Tensor, memo: Memo | None) -> None:
    _take_(module, ("weight", "bias", "running_mean", "running_var"), 0, index, memo)
    module.num_features = len(index)


def _group_norm(module: Any, axis: str, index: torch.Tensor, memo: Memo | None) -> None:
    _take_(module, ("weight", "bias"), 0, index, memo)
    if module.num_groups == module.num_channels:
        module.num_groups = len(index)
    module.num_channels = len(index)


def _layer_norm(module: Any, axis: str, index: torch.Tensor, memo: Memo | None) -> None:
    _take_(module, ("weight", "bias"), 0, index, memo)
    module.normalized_shape = (len(index), *module.normalized_shape[1:])


def _prelu(module: Any, axis: str, index: torch.Tensor, memo: Memo | None) -> None:
    _take_(module, ("weight",), 0, index, memo)
    module.num_parameters = len(index)


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
_Adapter = Callable[[Any, str, torch.Tensor, "Memo | None"], None]
_ROWS: list[tuple[tuple[type[nn.Module], ...], tuple[str, ...], _Adapter]] = [
    (_CONVS, ("out", "in"), _conv),
    ((nn.Linear,), ("out", "in"), _linear),
    (_NORMS, ("param",), _norm),
    ((nn.GroupNorm,), ("param",), _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), ("param",), _layer_norm),
    ((nn.PReLU,), ("param",), _prelu),
]


def has_adapter(module: nn.Module) -> bool:
    """Whether :func:`take_channels_` knows this module."""
    return hasattr(module, "take_channels_") or any(isinstance(module, kinds) for kinds, _, _ in _ROWS)


def take_channels_(module: nn.Module, axis: str, index: torch.Tensor, memo: Memo | None = None) -> None:
    """New channel j of ``module`` becomes what channel ``index[j]`` was, in place.

    Args:
        module: a convolution, linear layer, norm or PReLU of torch.nn, or a module with a
            ``take_channels_(axis, index)`` of its own.
        axis: "out", "in" or "param". The input channels of a depthwise convolution follow its "out" axis.
        index: int64 positions; of a grouped convolution they count over all groups, and the groups stay.
        memo: what shared parameters became in this edit so far.

    Raises:
        PrecutError: for a module or an axis without an adapter.
    """
    own = getattr(module, "take_channels_", None)
    if own is not None:
        own(axis, index)
        return
    for kinds, axes, adapter in _ROWS:
        if isinstance(module, kinds):
            if axis not in axes:
                raise unknown(f"axis of {type(module).__name__}", axis, axes)
            adapter(module, axis, index, memo)
            return
    raise PrecutError(f"no adapter takes the channels of a {type(module).__name__}")
