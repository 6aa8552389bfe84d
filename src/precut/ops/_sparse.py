"""The sparse operators as torch sees them: one opaque operator a layer, run by whichever of the table fits.

The reference is a dense operator on the scattered weight; autograd (of any order), autocast, torch.compile and
torch.export see through it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from precut.ops._expand import expand
from precut.ops._table import Operator, choose, operators

__all__ = ["sparse_conv2d", "sparse_linear"]

_library = torch.library.Library("precut", "FRAGMENT")
_library.define(
    "sparse_conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? index, str key, int[] shape, "
    "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor"
)
_library.define(
    "sparse_linear(Tensor input, Tensor weight, Tensor? bias, Tensor? index, str key, int[] shape) -> Tensor"
)


def _reference_conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    index: torch.Tensor | None,
    key: str,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    return F.conv2d(input, expand(weight, index, key, shape), bias, stride, padding, dilation, groups)


def _reference_linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    index: torch.Tensor | None,
    key: str,
    shape: list[int],
) -> torch.Tensor:
    return F.linear(input, expand(weight, index, key, shape), bias)


operators.register("any_conv2d_any_whole_reference")(Operator("conv2d", _reference_conv2d, lambda *_: True))
operators.register("any_linear_any_whole_reference")(Operator("linear", _reference_linear, lambda *_: True))


def _conv2d(*args: Any) -> torch.Tensor:
    return choose("conv2d", *args)[1].run(*args)


def _linear(*args: Any) -> torch.Tensor:
    return choose("linear", *args)[1].run(*args)


_library.impl("sparse_conv2d", _conv2d, "CompositeImplicitAutograd")
_library.impl("sparse_linear", _linear, "CompositeImplicitAutograd")

sparse_conv2d = torch.ops.precut.sparse_conv2d.default
sparse_linear = torch.ops.precut.sparse_linear.default
