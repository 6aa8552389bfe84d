"""How images and 4-D weights lie in memory while a network trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from precut.layers import SparseConv2d

__all__ = ["layout"]

_FEW = 8


def layout(channels_last: bool, device: torch.device, networks: Iterable[nn.Module]) -> torch.memory_format:
    """Channels last where that is wanted and safe.

    Args:
        channels_last: whether it is wanted.
        networks: all that a step may run.
    """
    if not channels_last or (device.type == "cpu" and any(map(_overruns, networks))):
        return torch.contiguous_format
    return torch.channels_last


def _overruns(network: nn.Module) -> bool:
    """Whether oneDNN 3.12 (torch 2.13) may write past the end of a gradient of this network: on AVX2 the weights' of a
    1 x 1 convolution with a stride that reads fewer than 8 channels, channels last. The process then dies, or worse."""
    return any(isinstance(module, (nn.Conv2d, SparseConv2d)) and _narrow(module) for module in network.modules())


def _narrow(layer: Any) -> bool:
    strided = tuple(layer.kernel_size) == (1, 1) and max(layer.stride) > 1
    return strided and layer.in_channels // layer.groups < _FEW
