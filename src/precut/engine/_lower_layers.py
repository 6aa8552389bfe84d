"""Lowering of layers with weights: convolutions, linear layers, batch norms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from precut.engine._lower import Operand, Program, UnsupportedError, row
from precut.errors import PrecutError
from precut.graph import Node
from precut.runtime import ClassSupport, MaskSupport

__all__ = ["array"]

MAX_CLASSES = 256  # of the native format


def array(tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    """A float64 copy: what is folded is rounded once, at the end."""
    return np.array(tensor.detach().to("cpu", torch.float64).numpy())


def _tensor(node: Node, role: str) -> torch.Tensor | None:
    """The parameter of a module or function node; None where it has none."""
    if node.module is not None:
        return getattr(node.module, role, None)  # not from params: a parametrised weight is computed
    if role in node.params:
        return node.params[role][1]
    if node.bound.get(role) is not None:
        raise UnsupportedError(f"its {role} is computed while the network runs")
    return None


def _weights(node: Node) -> tuple[dict[str, Any], npt.NDArray[np.int64], tuple[int, ...]]:
    """(arguments for the builder, kept weights of each filter, dense shape)."""
    weight = _tensor(node, "weight")
    if weight is None:
        raise UnsupportedError("its weight is computed while the network runs")
    bias = _tensor(node, "bias")
    if len(node.inputs) != 1:
        raise UnsupportedError("its weight is computed while the network runs")
    bound = getattr(node.module, "support", None) if node.module is not None else None
    shape = tuple(bound.shape) if bound is not None else tuple(weight.shape)
    kept = np.full(shape[0], int(np.prod(shape[1:])), np.int64)
    support: ClassSupport | MaskSupport | None = None
    if bound is not None and bound.nnz != bound.numel:
        kept = bound.filter_counts.numpy()
        table = bound.table
        fits = table is not None and max(table.out_classes, table.in_classes) <= MAX_CLASSES
        support = ClassSupport(table.positions, table.align) if fits else MaskSupport(bound.mask().numpy())
    args = {
        "weight": array(weight).reshape(-1),
        "bias": None if bias is None else array(bias),
        "shape": shape,
        "support": support,
    }
    return args, kept, shape


@row("conv2d", "conv2d", "padding_mode 'zeros'; weight not computed while the network runs; any support, any groups")
def _conv2d(node: Node, p: Program) -> Operand:
    attrs = node.attrs
    mode = attrs.get("padding_mode", "zeros")
    if mode != "zeros":
        raise UnsupportedError(f"its padding_mode is {mode!r}; the native library pads with zeros")
    x = p.map(node.input)
    args, kept, shape = _weights(node)
    padding = attrs["padding"]
    if padding == "valid":
        sides = (0, 0, 0, 0)
    elif padding == "same":
        spans = [(k - 1) * d for k, d in zip(shape[2:], attrs["dilation"], strict=True)]
        sides = (spans[0] // 2, spans[1] // 2, spans[0] - spans[0] // 2, spans[1] - spans[1] // 2)
    else:
        sides = (*padding, *padding)
    return p.emit(
        "conv2d", [x], channels=shape[0], per_filter=kept, stride=attrs["stride"], padding=sides,
        dilation=attrs["dilation"], groups=attrs["groups"], **args,
    )  # fmt: skip


@row("linear", "linear", "on (N, C); any support")
def _linear(node: Node, p: Program) -> Operand:
    if len(node.input.shape) != 2:
        raise UnsupportedError(f"it works on a tensor of {len(node.input.shape)} dimensions, not on (N, C)")
    x = p.operand(node.input)
    args, kept, shape = _weights(node)
    return p.emit("linear", [x], channels=shape[0], per_filter=kept, **args)


@row("batch_norm", "folded into the convolution or linear layer before it, else affine", "with running statistics")
def _batch_norm(node: Node, p: Program) -> Operand:
    if node.module is None and node.attrs.get("training"):
        raise PrecutError(
            f"{node.where} has training=True though the model is in eval mode: pass training=self.training, or compile "
            "a model that uses its running statistics"
        )
    mean, variance = _tensor(node, "running_mean"), _tensor(node, "running_var")
    if mean is None or variance is None:
        raise UnsupportedError("it keeps no running statistics, so its result depends on the whole batch")
    if len(node.inputs) != 1 or len(node.input.shape) not in (2, 4):
        raise UnsupportedError("it does not work on (N, C) or (N, C, H, W)")
    x = p.operand(node.input)
    scale = 1 / np.sqrt(array(variance) + node.attrs["eps"])
    weight, bias = _tensor(node, "weight"), _tensor(node, "bias")
    if weight is not None:
        scale = scale * array(weight)
    shift = -array(mean) * scale
    if bias is not None:
        shift = shift + array(bias)
    return p.affine(x, scale, shift)
