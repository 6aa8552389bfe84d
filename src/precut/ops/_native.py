"""A convolution by libprecut, forward and backward, at the cost of the weights that exist (`precut_conv.h`).

For float32 on a CPU. It beats a dense convolution where few enough weights exist; ``fits`` says where.
"""

from __future__ import annotations

import ctypes as c
import math
import os
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch

import precut.ops._sparse  # noqa: F401  the references are registered before this
from precut.ops._expand import compact, expand, positions
from precut.ops._table import Operator, operators
from precut.runtime import available, call, library

__all__ = ["NATIVE_CONV2D"]

# Above this share of the dense weights calls go to the dense convolution: where a whole step of ResNet-18, batch 16, one
# thread with AVX2, was no longer faster. Supports that repeat share their loads among output channels; listed ones do not.
_MOST_REPEATING, _MOST_LISTED = 0.7, 0.55
# Plans are kept by support and image size, the latest used. A network has tens; supports that move leave theirs behind.
_PLANS, _PLAN_BYTES = 512, 1 << 30


class _Shape(c.Structure):
    """`precut_conv_shape`."""

    _fields_ = [
        ("struct_size", c.c_uint32),
        ("in_channels", c.c_int32),
        ("out_channels", c.c_int32),
        ("groups", c.c_int32),
        ("kernel", c.c_int32 * 2),
        ("stride", c.c_int32 * 2),
        ("padding", c.c_int32 * 2),
        ("dilation", c.c_int32 * 2),
        ("size", c.c_int32 * 2),
        ("weights", c.c_int64),
        ("positions", c.c_void_p),
    ]


class _Array(c.Structure):
    """`precut_array`."""

    _fields_ = [("data", c.c_void_p), ("strides", c.c_int64 * 4)]


def _array(tensor: torch.Tensor) -> _Array:
    # Not tensor.stride(), which may be anything for an axis of one.
    _, channels, height, width = tensor.shape
    if tensor.is_contiguous():
        strides = (channels * height * width, height * width, width, 1)
    else:
        strides = (channels * height * width, 1, width * channels, channels)
    return _Array(tensor.data_ptr(), (c.c_int64 * 4)(*strides))


def _fork_of_torch() -> int:
    """Address of the function by which torch's OpenMP runtime (libgomp, or one that has its entry points) starts threads, 0
    where there is none. Threads of our own would share their cores with torch's, which poll for a while after every
    operator: with two threads on two cores a training step took up to half as long again."""
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    for path in [*map(str, bundled), None]:  # None: whatever the process has
        try:
            # A runtime that torch has not loaded would be one more pool, not torch's.
            loaded = c.CDLL(path, mode=getattr(os, "RTLD_NOLOAD", 0) | os.RTLD_LAZY if path else c.DEFAULT_MODE)
            return c.cast(loaded.GOMP_parallel, c.c_void_p).value or 0
        except (OSError, AttributeError, TypeError):
            continue
    return 0


@lru_cache(maxsize=1)
def _usable() -> bool:
    if not available():
        return False
    library().precut_conv_threads(_fork_of_torch())
    return True


class _Plan:
    """A support's convolution at one image size. Closed when nothing refers to it any more."""

    def __init__(self, index: torch.Tensor, shape: list[int], size: list[int], options: tuple[Any, ...]) -> None:
        stride, padding, dilation, groups = options
        index = index.contiguous()
        pair = c.c_int32 * 2
        made = _Shape(
            c.sizeof(_Shape), shape[1] * groups, shape[0], groups, pair(*shape[2:]), pair(*stride), pair(*padding),
            pair(*dilation), pair(*size), index.numel(), index.data_ptr(),
        )  # fmt: skip
        self.handle = c.c_void_p()
        self.weights = index.numel()
        pixels = (size[0] + 2 * padding[0]) * (size[1] + 2 * padding[1])
        # What libprecut keeps: planes of the channels for each thread, twice, and lists of the weights in both directions.
        self.bytes = 8 * torch.get_num_threads() * (shape[0] + shape[1] * groups) * pixels + 32 * self.weights
        self.out = [
            (size[d] + 2 * padding[d] - dilation[d] * (shape[2 + d] - 1) - 1) // stride[d] + 1 for d in range(2)
        ]
        call("precut_conv_open", c.byref(made), None, c.byref(self.handle))

    def __del__(self) -> None:
        if self.handle:
            library().precut_conv_close(self.handle)


_plans: OrderedDict[Any, tuple[_Plan, torch.Tensor | None]] = OrderedDict()
_lock = Lock()


def _plan(index: torch.Tensor | None, key: str, shape: list[int], size: list[int], options: tuple[Any, ...]) -> _Plan:
    # An index tensor is known by its place and version; the cache keeps it alive, so that no other can take its place.
    support = key if index is None else (index.data_ptr(), 0 if index.is_inference() else index._version)
    full = (support, tuple(shape), tuple(size), options)
    with _lock:
        found = _plans.get(full)
        if found is None:
            plan = _Plan(positions(key, index, torch.device("cpu")), shape, size, options)
            found = _plans[full] = plan, index
            while len(_plans) > _PLANS or (
                len(_plans) > 1 and sum(kept.bytes for kept, _ in _plans.values()) > _PLAN_BYTES
            ):
                _plans.popitem(last=False)
        _plans.move_to_end(full)
    return found[0]


def _layout(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of it, with channels or columns next to each other and no overlap."""
    last = tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor if last or tensor.is_contiguous() else tensor.contiguous()


def _new(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    # Its own dtype: torch's default one may be another, and libprecut writes float32.
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


def _batched(tensor: torch.Tensor) -> bool:
    """Whether it stands for many tensors, as within torch's vmap and the older one of ``is_grads_batched``."""
    return "Batched" in torch._C._dispatch_key_set(tensor)


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        index: torch.Tensor | None,
        key: str,
        shape: list[int],
        options: tuple[Any, ...],
    ) -> torch.Tensor:
        plan = _plan(index, key, shape, list(x.shape[2:]), options)
        if weight.numel() != plan.weights or (bias is not None and bias.numel() != shape[0]):
            raise RuntimeError(
                f"sparse_conv2d got {weight.numel()} weights for a support of {plan.weights}"
                + ("" if bias is None else f", and a bias of {bias.numel()} for {shape[0]} output channels")
            )
        y = _new(x, (x.shape[0], shape[0], *plan.out))
        call(
            "precut_conv_forward", plan.handle, x.shape[0], c.byref(_array(x)), weight.data_ptr(),
            None if bias is None else bias.contiguous().data_ptr(), c.byref(_array(y)), torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, weight, index)
        ctx.key, ctx.shape, ctx.options, ctx.plan = key, shape, options, plan
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        x, weight, index = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        # Somebody differentiates again, or for many gradients at once: through operators that torch knows.
        if torch.is_grad_enabled() or _batched(grad):
            stride, padding, dilation, groups = ctx.options
            dense = expand(weight, index, ctx.key, ctx.shape)
            dx, dw, db = torch.ops.aten.convolution_backward(
                grad, x, dense, [ctx.shape[0]], stride, padding, dilation, False, [0, 0], groups,
                [need_x, need_weight, need_bias],
            )  # fmt: skip
            if need_weight:
                dw = compact(dw, index, ctx.key, ctx.shape, list(weight.shape))
        else:
            grad = _layout(grad)
            dx = _new(x, tuple(x.shape)) if need_x else None
            dw = torch.empty_like(weight) if need_weight else None
            if need_x or need_weight:
                call(
                    "precut_conv_backward", ctx.plan.handle, x.shape[0], c.byref(_array(x)), weight.data_ptr(),
                    c.byref(_array(grad)),
                    None if dx is None else c.byref(_array(dx)), None if dw is None else dw.data_ptr(),
                    torch.get_num_threads(),
                )  # fmt: skip
            db = grad.sum((0, 2, 3)) if need_bias else None
        return dx, dw, db, None, None, None, None


def _run(
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
    options = (tuple(stride), tuple(padding), tuple(dilation), groups)
    # Laid out where autograd sees it: a copy made within the function would be cut off from the input when somebody
    # differentiates twice.
    return _Conv2d.apply(_layout(input), weight.contiguous(), bias, index, key, list(shape), options)


def _fits(
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
) -> bool:
    tensors = [tensor for tensor in (input, weight, bias) if tensor is not None]
    return (
        input.dim() == 4
        and input.shape[1] == shape[1] * groups  # the reference refuses others, in torch's words
        and min(input.shape[d] + 2 * padding[d - 2] - dilation[d - 2] * (shape[d] - 1) for d in (2, 3)) > 0
        and all(type(t) in (torch.Tensor, torch.nn.Parameter) and t.dtype == torch.float32 for t in tensors)
        and all(t.device.type == "cpu" and t.layout == torch.strided for t in tensors)
        and 0 < weight.numel() <= (_MOST_REPEATING if index is None else _MOST_LISTED) * math.prod(shape)
        and input.numel() > 0
        and len(stride) == len(padding) == len(dilation) == 2
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0  # counters and tracers must see what is run
        and torch._C._functorch.maybe_current_level() is None
        and torch.autograd.forward_ad._current_level < 0
        and _usable()
    )


NATIVE_CONV2D = "f32_conv2d_any_planes_native"
operators.register(NATIVE_CONV2D)(Operator("conv2d", _run, _fits))
