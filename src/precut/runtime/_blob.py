"""Writes the `.precut` file format (docs/native-format.md) with NumPy only.

A :class:`BlobBuilder` is a list of operations in execution order. Every method that adds one returns the number of the
value it computes, which later operations take as input::

    b = BlobBuilder()
    x = b.input("image", (1, 3, 32, 32))
    y = b.conv2d(x, weight, bias, padding=(1, 1), act="relu", name="stem")
    y = b.flatten(b.adaptive_avg_pool(y, (1, 1)))
    b.output(b.linear(y, fc_weight, fc_bias, name="fc"), "logits")
    data = b.bytes()

Weights are canonical: C order of the dense layout (out, in / groups, kernel height, kernel width), and on a sparse
support only the weights that exist, in that same order.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from precut.errors import PrecutError, unknown

__all__ = ["ACTIVATIONS", "Act", "BlobBuilder", "ClassSupport", "MaskSupport"]

MAGIC = b"PRECUT\x1a\n"
VERSION = 1
HEADER_BYTES = 64
NONE = 0xFFFFFFFF

OPS = (
    "conv2d",
    "linear",
    "max_pool",
    "avg_pool",
    "adaptive_avg_pool",
    "add",
    "mul",
    "cat",
    "gather",
    "flatten",
    "activation",
    "affine",
    "softmax",
    "pad",
    "adaptive_max_pool",
)
ACTIVATIONS = (
    "none",
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "gelu",
    "gelu_tanh",
    "tanh",
    "clip",
    "elu",
)

Array = npt.NDArray[Any]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Act:
    """An activation with its numbers: leaky_relu and elu take ``alpha``, clip takes ``alpha`` (low) and ``beta``
    (high), prelu takes ``slopes`` (1 or one a channel)."""

    kind: str
    alpha: float = 0.0
    beta: float = 0.0
    slopes: Array | None = None


@dataclass(frozen=True)
class ClassSupport:
    """The kernel from input channel i (counted in its group) to output channel o keeps
    ``positions[(o // align) % P_out][i % P_in]`` (row-major kernel positions)."""

    positions: Sequence[Sequence[Sequence[int]]]
    align: int = 1


@dataclass(frozen=True)
class MaskSupport:
    """Any support: a boolean array of the dense weight's shape."""

    mask: Array


class _Words:
    """A growing little-endian section of 32-bit words."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def u32(self, *values: int) -> None:
        self.parts.append(struct.pack(f"<{len(values)}I", *(NONE if v == -1 else v for v in values)))

    def u64(self, value: int) -> None:
        self.parts.append(struct.pack("<Q", value))

    def f32(self, *values: float) -> None:
        self.parts.append(struct.pack(f"<{len(values)}f", *values))

    def text(self, text: str) -> None:
        raw = text.encode("ascii", "replace")[:4096]
        raw = bytes(c if 32 <= c < 127 else ord("?") for c in raw)
        self.u32(len(raw))
        self.parts.append(raw + b"\0" * (-len(raw) % 4))

    def bytes(self) -> bytes:
        return b"".join(self.parts)


class BlobBuilder:
    """Collects a network and writes it as one `.precut` file. All operations work on (N, C, H, W) or (N, C) values."""

    def __init__(self) -> None:
        self._values = 0
        self._tensors: list[tuple[int, int, int]] = []  # type, offset, count
        self._data: list[bytes] = []
        self._size = 0
        self._supports: list[bytes] = []
        self._support_ids: dict[Any, int] = {}
        self._inputs: list[bytes] = []
        self._nodes: list[bytes] = []
        self._outputs: list[bytes] = []

    # ---- parts

    def tensor(self, array: Array) -> int:
        """Adds a float32 (anything else is converted) or, for bool and uint8, a byte tensor; returns its number."""
        is_bytes = array.dtype in (np.uint8, np.bool_)
        raw = np.ascontiguousarray(array, dtype=np.uint8 if is_bytes else "<f4")
        self._tensors.append((int(is_bytes), self._size, raw.size))
        # Each tensor begins on a cache line of the file, so that a mapped file can be read with aligned loads.
        padding = -raw.nbytes % 64
        self._data.append(raw.tobytes() + b"\0" * padding)
        self._size += raw.nbytes + padding
        return len(self._tensors) - 1

    def _support(self, support: ClassSupport | MaskSupport | None) -> int:
        if support is None:
            return -1
        words = _Words()
        if isinstance(support, MaskSupport):
            mask = np.ascontiguousarray(support.mask, dtype=bool).reshape(-1)
            packed = np.packbits(mask, bitorder="little")
            key: Any = packed.tobytes()
            if key in self._support_ids:
                return self._support_ids[key]
            words.u32(2, self.tensor(packed))
        else:
            rows = tuple(tuple(tuple(sorted(pair)) for pair in row) for row in support.positions)
            key = (rows, support.align)
            if key in self._support_ids:
                return self._support_ids[key]
            if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
                raise PrecutError("a class table needs the same number (at least one) of input classes in each row")
            words.u32(1, len(rows), len(rows[0]), support.align)
            for row in rows:
                for pair in row:
                    words.u32(len(pair), *pair)
        self._supports.append(words.bytes())
        self._support_ids[key] = len(self._supports) - 1
        return self._support_ids[key]

    def _value(self) -> int:
        self._values += 1
        return self._values - 1

    def _known(self, values: Sequence[int]) -> None:
        for v in values:
            if not 0 <= v < self._values:
                raise PrecutError(f"value {v} is not computed yet; known are 0 to {self._values - 1}")

    def _node(self, op: str, name: str, inputs: Sequence[int], act: str | Act, attrs: _Words | None = None) -> int:
        self._known(inputs)
        a = Act(act) if isinstance(act, str) else act
        if a.kind not in ACTIVATIONS:
            raise unknown("activation", a.kind, ACTIVATIONS)
        slope = -1 if a.slopes is None else self.tensor(np.asarray(a.slopes, dtype=np.float32))
        out = self._value()
        words = _Words()
        words.u32(OPS.index(op) + 1)
        words.text(name or f"{op}_{out}")
        words.u32(len(inputs), *inputs, out, ACTIVATIONS.index(a.kind))
        words.f32(a.alpha, a.beta)
        words.u32(slope)
        if attrs is not None:
            words.parts.append(attrs.bytes())
        self._nodes.append(words.bytes())
        return out

    # ---- the network's ends

    def input(self, name: str, shape: Sequence[int]) -> int:
        """An input; ``shape`` is (N, C, H, W) or (N, C). Channels are fixed, the rest are an example."""
        if len(shape) not in (2, 4):
            raise PrecutError(f"an input has 2 or 4 axes; got shape {tuple(shape)}")
        value = self._value()
        words = _Words()
        words.u32(value, len(shape), *shape, *((1, 1) if len(shape) == 2 else ()))
        words.text(name)
        self._inputs.append(words.bytes())
        return value

    def output(self, value: int, name: str = "output") -> None:
        """Makes a value an output; outputs keep the order of these calls."""
        self._known([value])
        words = _Words()
        words.u32(value)
        words.text(name)
        self._outputs.append(words.bytes())

    # ---- operations

    def _weights(
        self,
        weight: Array,
        bias: Array | None,
        support: ClassSupport | MaskSupport | None,
        shape: Sequence[int],
        groups: int,
        residual: int | None,
    ) -> _Words:
        words = _Words()
        words.u32(self.tensor(np.asarray(weight, dtype=np.float32)))
        words.u32(-1 if bias is None else self.tensor(np.asarray(bias, dtype=np.float32)))
        words.u32(self._support(support), shape[0], shape[1] * groups, groups, int(residual is not None))
        return words

    def conv2d(
        self,
        x: int,
        weight: Array,
        bias: Array | None = None,
        *,
        shape: Sequence[int] | None = None,
        stride: Pair = (1, 1),
        padding: Pair | tuple[int, int, int, int] = (0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
        support: ClassSupport | MaskSupport | None = None,
        residual: int | None = None,
        act: str | Act = "none",
        name: str = "",
    ) -> int:
        """act(conv(x) + bias + residual).

        Args:
            x: the input value.
            weight: dense (out, in / groups, kh, kw); with a ``support`` the kept weights only, in any shape, in C order
                of the dense layout.
            bias: (out,).
            shape: the dense weight's shape; needed with a ``support``.
            padding: (rows, columns), or (top, left, bottom, right).
            support: None is dense.
            residual: a value of the output's shape that is added before the activation.
        """
        shape = tuple(weight.shape) if shape is None else tuple(shape)
        if len(shape) != 4:
            raise PrecutError(f"conv2d needs the dense weight shape (out, in / groups, kh, kw); got {shape}")
        words = self._weights(weight, bias, support, shape, groups, residual)
        words.u32(shape[2], shape[3], *stride, *_sides(padding), *dilation)
        return self._node("conv2d", name, [x] if residual is None else [x, residual], act, words)

    def linear(
        self,
        x: int,
        weight: Array,
        bias: Array | None = None,
        *,
        shape: Sequence[int] | None = None,
        support: ClassSupport | MaskSupport | None = None,
        residual: int | None = None,
        act: str | Act = "none",
        name: str = "",
    ) -> int:
        """act(x W^T + bias + residual) on (N, C) values (or (N, C, 1, 1)); arguments as of :meth:`conv2d`, dense shape
        (out, in). A class table's only kernel position is 0."""
        shape = tuple(weight.shape) if shape is None else tuple(shape)
        if len(shape) != 2:
            raise PrecutError(f"linear needs the dense weight shape (out, in); got {shape}")
        words = self._weights(weight, bias, support, shape, 1, residual)
        return self._node("linear", name, [x] if residual is None else [x, residual], act, words)

    def max_pool(
        self,
        x: int,
        kernel: Pair,
        stride: Pair,
        padding: Pair | tuple[int, int, int, int] = (0, 0),
        dilation: Pair = (1, 1),
        *,
        ceil_mode: bool = False,
        act: str | Act = "none",
        name: str = "",
    ) -> int:
        """As torch.nn.functional.max_pool2d."""
        words = _Words()
        words.u32(*kernel, *stride, *_sides(padding), *dilation, int(ceil_mode))
        return self._node("max_pool", name, [x], act, words)

    def avg_pool(
        self,
        x: int,
        kernel: Pair,
        stride: Pair,
        padding: Pair | tuple[int, int, int, int] = (0, 0),
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int = 0,
        act: str | Act = "none",
        name: str = "",
    ) -> int:
        """As torch.nn.functional.avg_pool2d; ``divisor`` 0 is the window's own. A 1x1 kernel subsamples."""
        words = _Words()
        words.u32(*kernel, *stride, *_sides(padding), int(ceil_mode), int(count_include_pad), divisor)
        return self._node("avg_pool", name, [x], act, words)

    def adaptive_avg_pool(self, x: int, size: Pair = (1, 1), *, act: str | Act = "none", name: str = "") -> int:
        """As torch.nn.functional.adaptive_avg_pool2d; size (1, 1) is the global average."""
        words = _Words()
        words.u32(*size)
        return self._node("adaptive_avg_pool", name, [x], act, words)

    def adaptive_max_pool(self, x: int, size: Pair = (1, 1), *, act: str | Act = "none", name: str = "") -> int:
        """As torch.nn.functional.adaptive_max_pool2d."""
        words = _Words()
        words.u32(*size)
        return self._node("adaptive_max_pool", name, [x], act, words)

    def add(self, a: int, b: int, *, act: str | Act = "none", name: str = "") -> int:
        """act(a + b); shapes are equal, or b is (N, C, 1, 1)."""
        return self._node("add", name, [a, b], act)

    def mul(self, a: int, b: int, *, act: str | Act = "none", name: str = "") -> int:
        """act(a * b); shapes are equal, or b is (N, C, 1, 1) (squeeze-and-excite)."""
        return self._node("mul", name, [a, b], act)

    def cat(self, values: Sequence[int], *, act: str | Act = "none", name: str = "") -> int:
        """Concatenates channels."""
        return self._node("cat", name, list(values), act)

    def gather(self, x: int, index: Sequence[int], *, act: str | Act = "none", name: str = "") -> int:
        """Output channel j is input channel ``index[j]``, or zeros where that is -1: permutations, slices, shuffles,
        channel padding."""
        words = _Words()
        words.u32(len(index), *(int(i) for i in index))
        return self._node("gather", name, [x], act, words)

    def flatten(self, x: int, *, name: str = "") -> int:
        """(N, C, H, W) to (N, C * H * W)."""
        return self._node("flatten", name, [x], "none")

    def activation(self, x: int, act: str | Act, *, name: str = "") -> int:
        """An activation that could not be fused into what comes before it."""
        return self._node("activation", name, [x], act)

    def affine(self, x: int, scale: Array, shift: Array, *, act: str | Act = "none", name: str = "") -> int:
        """act(x * scale + shift) with one scale and shift a channel: a batch norm that could not be folded."""
        words = _Words()
        words.u32(self.tensor(np.asarray(scale, dtype=np.float32)), self.tensor(np.asarray(shift, dtype=np.float32)))
        return self._node("affine", name, [x], act, words)

    def softmax(self, x: int, *, name: str = "") -> int:
        """Softmax over the channels."""
        return self._node("softmax", name, [x], "none")

    def pad(self, x: int, padding: tuple[int, int, int, int], value: float = 0.0, *, name: str = "") -> int:
        """Pads rows and columns, (top, left, bottom, right), with a constant."""
        words = _Words()
        words.u32(*padding)
        words.f32(value)
        return self._node("pad", name, [x], "none", words)

    # ---- the file

    def bytes(self) -> bytes:
        """The whole file."""
        if not self._inputs or not self._outputs:
            raise PrecutError("a network needs at least one input and one output before it is written")
        graph = _Words()
        graph.u32(self._values, len(self._tensors))
        for kind, offset, count in self._tensors:
            graph.u32(kind)
            graph.u64(offset)
            graph.u64(count)
        for part in (self._supports, self._inputs, self._nodes, self._outputs):
            graph.u32(len(part))
            graph.parts.extend(part)
        words = graph.bytes()
        data_at = HEADER_BYTES + len(words) + -len(words) % 64
        total = data_at + self._size
        body = struct.pack("<5Q", total, HEADER_BYTES, len(words), data_at, self._size) + b"\0" * 8
        body += words + b"\0" * (-len(words) % 64)
        checksum = zlib.crc32(body)
        for chunk in self._data:
            checksum = zlib.crc32(chunk, checksum)
        return b"".join([MAGIC, struct.pack("<2I", VERSION, checksum), body, *self._data])


def _sides(padding: Sequence[int]) -> tuple[int, ...]:
    """(top, left, bottom, right) of a padding given as such or as (rows, columns)."""
    sides = tuple(padding) if len(padding) == 4 else (padding[0], padding[1], padding[0], padding[1])
    if any(p < 0 for p in sides):
        raise PrecutError(f"paddings are not negative; got {tuple(padding)}")
    return sides
