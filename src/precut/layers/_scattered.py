"""Compact weights for the layers that have no sparse form of their own: transposed, 1-D and 3-D convolutions.

The layer stays what it is; its ``weight`` is computed from a parameter that holds only the weights that exist, through
``torch.nn.utils.parametrize``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from precut.errors import PrecutError
from precut.ops import expand
from precut.supports import Unstructured

__all__ = ["Scattered", "scatter_", "scattered"]


class Scattered(nn.Module):
    """The parametrization: compact weights (n, 1) to a dense tensor with zeros elsewhere.

    Args:
        maker: which weights exist; its shape is the dense tensor's.
    """

    index: torch.Tensor

    def __init__(self, maker: Unstructured, device: Any = None) -> None:
        super().__init__()
        self.maker = maker
        self._set_index(device)

    def _set_index(self, device: Any) -> None:
        index = self.mask().reshape(-1).nonzero().squeeze(1)
        self.register_buffer("index", index.to(device=device, dtype=torch.int32), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Scattered:
        super()._apply(fn, recurse)
        self._set_index(self.index.device)  # to_empty() and type() would leave numbers that are no positions
        return self

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """Of the dense weight; by this ``measure`` knows the layer."""
        return self.maker.shape

    def mask(self) -> torch.Tensor:
        """A new bool tensor, on the CPU; True where a weight exists."""
        return self.maker.make_mask(self.maker.shape, 1)

    def forward(self, compact: torch.Tensor) -> torch.Tensor:
        return expand(compact, self.index, "", list(self.maker.shape))

    def right_inverse(self, dense: torch.Tensor) -> torch.Tensor:
        return dense.detach().reshape(-1).index_select(0, self.index).unsqueeze(1).clone()


def scatter_(layer: nn.Module, maker: Unstructured) -> nn.Module:
    """Lets ``layer.weight`` exist only where ``maker`` says, in place; returns the layer.

    ``layer.parametrizations.weight.original`` is then the parameter, (n, 1).

    Raises:
        PrecutError: when the layer has no weight of that shape.
    """
    weight = layer._parameters.get("weight")
    if weight is None or tuple(weight.shape) != maker.shape:
        found = "no weight of its own" if weight is None else f"a weight of shape {tuple(weight.shape)}"
        raise PrecutError(f"the mask is for a weight of shape {maker.shape}; the {type(layer).__name__} has {found}")
    trains = weight.requires_grad
    parametrize.register_parametrization(layer, "weight", Scattered(maker, weight.device), unsafe=True)
    layer.parametrizations.weight.original.requires_grad_(trains)  # type: ignore[union-attr]
    return layer


def scattered(layer: nn.Module) -> Scattered | None:
    """The parametrization that ``scatter_`` gave a layer; None where it gave none."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    first = layer.parametrizations.weight[0]  # type: ignore[index, union-attr]
    return first if isinstance(first, Scattered) else None
