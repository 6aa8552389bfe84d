"""A 2-D convolution of which only the weights on a Support exist."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from precut.errors import PrecutError, unknown, whole
from precut.layers._base import SparseLayer
from precut.ops import sparse_conv2d
from precut.supports import Support, SupportMaker, parse

__all__ = ["SparseConv2d"]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _pair(name: str, given: Any, least: int) -> tuple[int, int]:
    values = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(values) != 2:
        raise PrecutError(f"{name} must be one whole number or a pair of them; got {given!r}")
    return whole(name, values[0], least), whole(name, values[1], least)


class SparseConv2d(SparseLayer):
    """``nn.Conv2d`` with only the weights on its support.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            in ``nn.Conv2d``; padding may be "same" or "valid".
        support: a maker (``supports.Periodic(...)``), its name ("PSD4_P8"), or a Support of the dense weight's shape.

    Input (N, in_channels, H, W) or (in_channels, H, W); floating point.
    """

    precut_op: ClassVar[str] = "conv2d"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        support: SupportMaker | Support | str,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        in_channels, out_channels = whole("in_channels", in_channels), whole("out_channels", out_channels)
        groups = whole("groups", groups)
        kernel = _pair("kernel_size", kernel_size, 1)
        if in_channels % groups or out_channels % groups:
            raise PrecutError(
                f"groups must divide in_channels and out_channels; got groups={groups}, in_channels={in_channels}, "
                f"out_channels={out_channels}"
            )
        if padding_mode not in _PADDING_MODES:
            raise unknown("padding_mode", padding_mode, _PADDING_MODES)
        shape = (out_channels, in_channels // groups, *kernel)
        bound = support if isinstance(support, Support) else parse(support).support(shape, groups)
        if bound.shape != shape or bound.groups != groups:
            raise PrecutError(
                f"the support is for a weight of shape {bound.shape} in {bound.groups} groups; this layer's is {shape} "
                f"in {groups}"
            )
        super().__init__(bound, bias, device, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = kernel
        self.stride = _pair("stride", stride, 1)
        self.dilation = _pair("dilation", dilation, 1)
        self.padding_mode = padding_mode
        self.padding: tuple[int, int] | str = padding if isinstance(padding, str) else _pair("padding", padding, 0)
        self._pads = self._explicit_padding()

    def _explicit_padding(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom), with "same" and "valid" spelt out."""
        if isinstance(self.padding, tuple):
            rows, columns = self.padding
            return columns, columns, rows, rows
        if self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding != "same":
            raise PrecutError(f"padding must be a number, a pair of them, 'same' or 'valid'; got {self.padding!r}")
        if self.stride != (1, 1):
            raise PrecutError(f"padding='same' needs stride 1; got stride {self.stride}")
        rows, columns = ((k - 1) * d for k, d in zip(self.kernel_size, self.dilation, strict=True))
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        left, right, top, bottom = self._pads
        padding = [top, left]
        if self.padding_mode != "zeros" or left != right or top != bottom:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, (left, right, top, bottom), mode=mode)
            padding = [0, 0]
        if self._watched():
            dense = self._watched_weight()
            return F.conv2d(input, dense, self.bias, self.stride, padding, self.dilation, self.groups)
        return sparse_conv2d(
            input,
            self.weight,
            self.bias,
            self.support_index,
            self._key,
            list(self.support.shape),
            list(self.stride),
            padding,
            list(self.dilation),
            self.groups,
        )

    def _groups_after(self, axis: str, index: torch.Tensor) -> int:
        if self.groups == 1 or axis == "in":
            return self.groups
        size = self.out_channels // self.groups
        source = index // size
        if len(index) % size == 0:
            runs = source.view(-1, size)
            if bool((runs == runs[:, :1]).all()):
                return len(runs)
        if len(index) % self.groups == 0:
            runs = source.view(self.groups, -1)
            if bool((runs == runs[:, :1]).all()) and len(runs[:, 0].unique()) == self.groups:
                return self.groups
        raise PrecutError(
            f"of a convolution with {self.groups} groups of {size} output channels, 'out' takes whole groups, or "
            f"equally many channels of every group, together; the index takes from groups {source.tolist()}"
        )

    def _set_sizes(self, shape: tuple[int, ...], groups: int) -> None:
        self.out_channels, self.in_channels, self.groups = shape[0], shape[1] * groups, groups

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding not in ((0, 0), "valid"):
            parts.append(f"padding={self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join([*parts, self._support_repr()])
