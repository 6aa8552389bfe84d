"""How many multiply-adds an operator does: one formula for each, and the call by which others add theirs.

Convolutions, linear layers, matrix products, attention and recurrent layers are counted. Normalisation, activations,
pooling, additions, resampling and look-ups count as 0, as papers do. Products with zero padding count, as everywhere.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from precut._registry import Registry
from precut.errors import PrecutError

__all__ = ["Work", "count_macs", "formula_of", "is_opaque"]


@dataclass(frozen=True)
class Work:
    """What one call of an operator does, for its whole batch.

    Attributes:
        op: the name in tables ("conv2d").
        macs: multiply-adds that are done.
        macs_dense: multiply-adds of the dense operator in its place.
        weight: the operand that is a weight, where the operator has a fixed place for it.
        weight_numel_dense: elements of the dense weight; by default those of ``weight``.
        operands: the other tensors that are read.
    """

    op: str
    macs: int
    macs_dense: int
    weight: torch.Tensor | None = None
    weight_numel_dense: int | None = None
    operands: tuple[torch.Tensor, ...] = ()


Formula = Callable[..., Work]
_formulas: Registry[Formula] = Registry("operator", "precut.measure.count_macs")

# Operators of torch that multiply a lot, have no formula here and no decomposition into ones that have.
_OPAQUE_ATEN = (
    *("_fft_*", "linalg_*", "_linalg_[!c]*", "*cholesky*", "*triangular*", "lu_*", "*_rnn*", "*cdist*", "_trilinear"),
    *("*mm", "*_mm_*", "mkldnn_*", "*_attention*", "*transformer_encoder*", "*convolution*", "quantized_*"),
)
_FREE_NAMESPACES = ("aten", "prim", "prims", "profiler")


def count_macs(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that tells ``summary`` what a custom operator costs.

    The decorated function gets the operator's output and its arguments and returns the multiply-adds of the call (all
    examples of the batch), or a pair of those done and those of the dense operator in its place::

        @precut.measure.count_macs("mylib::blur")
        def _(out, image, kernel):
            return out.numel() * kernel.numel()

    Args:
        name: the operator with its namespace, without an overload.

    Raises:
        PrecutError: when the name has no namespace, or has a formula already.
    """
    if name.count("::") != 1:
        raise PrecutError(f"an operator's name has the form 'namespace::name'; got {name!r}")

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        def formula(out: Any, *args: Any, **kwargs: Any) -> Work:
            counted = function(out, *args, **kwargs)
            pair = counted if isinstance(counted, tuple) else (counted, counted)
            if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in pair):
                raise PrecutError(
                    f"the formula of operator {name!r} must return the number of multiply-adds, or (done, dense), as "
                    f"ints from 0; got {counted!r}"
                )
            tensors = tuple(item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor))
            return Work(name, *pair, operands=tensors)

        _formulas.register(name)(formula)
        return function

    return add


def formula_of(name: str) -> Formula | None:
    """The formula of operator ``"namespace::name"``, if there is one."""
    return _formulas[name] if name in _formulas else None  # noqa: SIM401 (a Registry has no get)


def is_opaque(name: str) -> bool:
    """Whether an operator without a formula may multiply: other people's, and a few of torch's own."""
    namespace, _, operator = name.partition("::")
    if namespace == "precut":
        return False  # expand and compact only move weights; those that multiply have formulas
    if namespace in _FREE_NAMESPACES:
        return any(fnmatch.fnmatchcase(operator, pattern) for pattern in _OPAQUE_ATEN)
    return True


def _stored(tensor: torch.Tensor) -> int:
    """Elements that a matrix product reads: of a sparse tensor only those that are stored."""
    if tensor.layout == torch.sparse_coo:
        return int(tensor._nnz())
    compressed = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
    return int(tensor.values().numel()) if tensor.layout in compressed else tensor.numel()


@_formulas.register("precut::sparse_conv2d")
def _(
    out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, bias: Any, index: Any, key: str, shape: Sequence[int],
    *rest: Any,
) -> Work:  # fmt: skip
    positions = out.numel() // shape[0]  # examples x height x width; every weight multiplies once at each
    dense = math.prod(shape)
    return Work("conv2d", weight.numel() * positions, dense * positions, weight, dense, (input,))


@_formulas.register("precut::sparse_linear")
def _(
    out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, bias: Any, index: Any, key: str, shape: Sequence[int]
) -> Work:
    positions = out.numel() // shape[0]
    dense = math.prod(shape)
    return Work("linear", weight.numel() * positions, dense * positions, weight, dense, (input,))


@_formulas.register("aten::_convolution")
@_formulas.register("aten::convolution")
def _(out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, *rest: Any, **named: Any) -> Work:
    transposed = named["transposed"] if "transposed" in named else rest[4]  # after bias, stride, padding and dilation
    spatial = weight.ndim - 2
    # Forward every weight multiplies once at each output pixel, transposed once at each input pixel.
    pixels = input if transposed else out
    positions = pixels.shape[0] * math.prod(pixels.shape[2:])
    macs = positions * weight.numel()
    return Work(f"conv{'_transpose' if transposed else ''}{spatial}d", macs, macs, weight, operands=(input,))


@_formulas.register("aten::linear")
def _(out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, *rest: Any, **named: Any) -> Work:
    rows = input.numel() // weight.shape[-1]
    macs = rows * _stored(weight)
    return Work("linear", macs, macs, weight, operands=(input,))


def _product(first: torch.Tensor, second: torch.Tensor) -> Work:
    # (..., n, k) times (..., k, m): each stored element of the first meets m of the second. Where the second is
    # sparse instead, each of its stored elements meets n of the first.
    if _stored(second) < second.numel():
        macs = _stored(second) * (first.shape[-2] if first.ndim > 1 else 1)
    else:
        macs = _stored(first) * (second.shape[-1] if second.ndim > 1 else 1)
    return Work("matmul", macs, macs, operands=(first, second))


for _name in ("mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_scaled_mm"):
    _formulas.register(f"aten::{_name}")(lambda out, first, second, *rest, **named: _product(first, second))
for _name in ("addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation", "_sparse_addmm"):
    _formulas.register(f"aten::{_name}")(lambda out, added, first, second, *rest, **named: _product(first, second))


def _attention(out: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any) -> Work:
    # Queries times keys, then the weights times values; a causal mask saves nothing here, as nothing is skipped.
    rows = query.numel() // query.shape[-1]
    macs = rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return Work("attention", macs, macs, operands=(query, key, value))


_ATTENTIONS = ("scaled_dot_product_attention", "_scaled_dot_product_attention_math",
               "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
               "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")  # fmt: skip
for _name in _ATTENTIONS:
    _formulas.register(f"aten::{_name}")(_attention)


def _recurrent(kind: str) -> Formula:
    def formula(out: Any, input: torch.Tensor, *rest: Any, **named: Any) -> Work:
        lists = [item for item in rest if isinstance(item, (list, tuple)) and isinstance(item[0], torch.Tensor)]
        weights = lists[-1]  # after the lists of states, where there are such
        # Every matrix of every layer and direction multiplies once at each step of each sequence.
        steps = input.numel() // input.shape[-1]
        macs = steps * sum(weight.numel() for weight in weights if weight.ndim == 2)
        return Work(kind, macs, macs, operands=(input, *weights))

    return formula


for _name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    _formulas.register(f"aten::{_name}")(_recurrent(_name.partition("_")[0]))
