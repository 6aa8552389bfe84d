"""A linear layer of which only the weights on a Support exist."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from precut.errors import PrecutError, whole
from precut.layers._base import SparseLayer
from precut.ops import sparse_linear
from precut.supports import Support, SupportMaker, parse

__all__ = ["SparseLinear"]


class SparseLinear(SparseLayer):
    """``nn.Linear`` with only the weights on its support.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.
        support: a maker (``supports.NM(2, 4)``, ``supports.Unstructured(mask)``), its name, or a bound Support.

    Input (..., in_features), output (..., out_features); floating point.
    """

    precut_op: ClassVar[str] = "linear"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        support: SupportMaker | Support | str,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        in_features, out_features = whole("in_features", in_features), whole("out_features", out_features)
        shape = (out_features, in_features)
        bound = support if isinstance(support, Support) else parse(support).support(shape)
        if bound.shape != shape:
            raise PrecutError(f"the support is for a weight of shape {bound.shape}; this layer's is {shape}")
        super().__init__(bound, bias, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self._watched():
            return F.linear(input, self._watched_weight(), self.bias)
        return sparse_linear(input, self.weight, self.bias, self.support_index, self._key, list(self.support.shape))

    def _set_sizes(self, shape: tuple[int, ...], groups: int) -> None:
        self.out_features, self.in_features = shape

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self._support_repr()}"
