"""Between a compact weight and the dense one: two linear operators, each the other's gradient.

Both are opaque to torch.compile and torch.export. A support without an index tensor is found by its key, so that
nothing but the weight itself travels with a module. (torch.func cannot differentiate custom operators; torch.autograd
can, any number of times.)
"""

from __future__ import annotations

import math
from collections import OrderedDict
from threading import Lock
from typing import Any

import torch

from precut.supports import Support

__all__ = ["compact", "expand", "positions"]

_CACHED = 512  # supports x devices; a network has tens
_cache: OrderedDict[tuple[str, torch.device], torch.Tensor] = OrderedDict()
_lock = Lock()


def positions(key: str, index: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Flat dense positions (int64, on ``device``) of a support, from its index tensor or else from its key.

    Safe to call from any thread: two that ask for the same new key at once both compute it, and one result stays.
    """
    if index is not None:
        return index.to(device=device, dtype=torch.int64)
    with _lock:
        found = _cache.get((key, device))
        if found is not None:
            _cache.move_to_end((key, device))
            return found
    made = Support.from_key(key).indices().to(device)
    with _lock:
        _cache[key, device] = made
        while len(_cache) > _CACHED:
            _cache.popitem(last=False)
    return made


@torch.library.custom_op("precut::expand", mutates_args=())
def expand(weight: torch.Tensor, index: torch.Tensor | None, key: str, shape: list[int]) -> torch.Tensor:
    """The dense weight (zeros where nothing exists) of ``shape`` from the compact ``weight``; a new tensor.

    Args:
        weight: one number for each existing weight, in C order of the dense weight; any shape.
        index: flat dense positions, int, for a support without a key.
        key: ``Support.key``; not looked at where there is an ``index``.
        shape: of the dense weight.
    """
    # scatter_ and index_select, since plain indexing takes two to three times as long on a CPU.
    dense = weight.new_zeros(math.prod(shape))
    return dense.scatter_(0, positions(key, index, weight.device), weight.reshape(-1)).view(shape)


@torch.library.custom_op("precut::compact", mutates_args=())
def compact(
    dense: torch.Tensor, index: torch.Tensor | None, key: str, shape: list[int], weight_shape: list[int]
) -> torch.Tensor:
    """The compact weight of ``weight_shape``: what a dense tensor of ``shape`` holds on the support; a new tensor.

    ``index`` and ``key`` as in ``expand``.
    """
    return dense.reshape(-1).index_select(0, positions(key, index, dense.device)).view(weight_shape)


@expand.register_fake
def _(weight: torch.Tensor, index: torch.Tensor | None, key: str, shape: list[int]) -> torch.Tensor:
    return weight.new_empty(shape)


@compact.register_fake
def _(
    dense: torch.Tensor, index: torch.Tensor | None, key: str, shape: list[int], weight_shape: list[int]
) -> torch.Tensor:
    return dense.new_empty(weight_shape)


def _expand_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    weight, index, ctx.key, ctx.shape = inputs
    ctx.weight_shape = list(weight.shape)
    ctx.save_for_backward(index)


def _expand_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return compact(grad, *ctx.saved_tensors, ctx.key, ctx.shape, ctx.weight_shape), None, None, None


def _compact_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, index, ctx.key, ctx.shape, _ = inputs
    ctx.save_for_backward(index)


def _compact_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return expand(grad, *ctx.saved_tensors, ctx.key, ctx.shape), None, None, None, None


expand.register_autograd(_expand_backward, setup_context=_expand_setup)
compact.register_autograd(_compact_backward, setup_context=_compact_setup)
