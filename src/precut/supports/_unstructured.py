"""Any mask at all: what pruning finds, and what people bring from their own code. The one support that carries bits."""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from typing import Any, ClassVar

import numpy as np
import torch

from precut.errors import PrecutError, whole
from precut.supports._support import MAX_WEIGHTS, SupportMaker, makers

__all__ = ["Unstructured"]


@makers.register("unstructured")
class Unstructured(SupportMaker):
    """The support that a mask spells out, one bit a weight. It fits layers of the mask's shape only.

    Args:
        mask: tensor of the dense weight's shape; non-zero where a weight exists.
    """

    kind: ClassVar[str] = "unstructured"

    def __init__(self, mask: torch.Tensor) -> None:
        if not isinstance(mask, torch.Tensor):
            raise PrecutError(f"Unstructured takes a mask, a tensor of the weight's shape; got {type(mask).__name__}")
        kept = (mask.detach().cpu() != 0).contiguous()
        self._init(np.packbits(kept.numpy().reshape(-1)), tuple(kept.shape))

    def _init(self, bits: np.ndarray, shape: tuple[int, ...]) -> None:
        bits.flags.writeable = False
        self.bits = bits
        self.shape = shape
        self.digest = hashlib.sha256(repr(shape).encode() + bits.tobytes()).hexdigest()

    @classmethod
    def from_bits(cls, bits: np.ndarray, shape: tuple[int, ...]) -> Unstructured:
        """From packed bits (uint8, eight weights a byte, first weight in the highest bit) and the dense shape.

        Raises:
            PrecutError: when there are not exactly as many bits as weights.
        """
        count = math.prod(shape)
        if bits.dtype != np.uint8 or bits.shape != ((count + 7) // 8,):
            raise PrecutError(
                f"the bits of a support for shape {shape} must be {(count + 7) // 8} bytes; got {bits.dtype} "
                f"{bits.shape}"
            )
        if count % 8 and bits[-1] & (0xFF >> (count % 8)):
            raise PrecutError(f"the bits of a support for shape {shape} are set beyond its {count} weights")
        maker = cls.__new__(cls)
        maker._init(bits.copy(), shape)
        return maker

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        if shape != self.shape:
            raise PrecutError(f"this mask is for a weight of shape {self.shape}; the layer's is {shape}")

    def make_mask(self, shape: tuple[int, ...], groups: int) -> torch.Tensor:
        return torch.from_numpy(np.unpackbits(self.bits, count=math.prod(shape)).astype(bool).reshape(shape))

    def fields(self) -> dict[str, Any]:
        packed = base64.b64encode(zlib.compress(self.bits.tobytes(), 6)).decode("ascii")
        return {"shape": list(self.shape), "bits": packed}

    @classmethod
    def from_fields(cls, **fields: Any) -> Unstructured:
        if set(fields) != {"shape", "bits"} or not isinstance(fields["shape"], (list, tuple)):
            raise PrecutError(
                f"an unstructured support has the fields 'shape' (a list) and 'bits'; got {sorted(fields)}"
            )
        shape = tuple(whole("a size in 'shape'", size) for size in fields["shape"])
        if math.prod(shape) > MAX_WEIGHTS:
            raise PrecutError(f"a sparse layer has at most 2**31 - 1 dense weights; {shape} are {math.prod(shape)}")
        room = (math.prod(shape) + 7) // 8
        stream = zlib.decompressobj()
        try:
            # The bound keeps a hostile spec from unpacking to more than the shape can hold.
            data = stream.decompress(base64.b64decode(fields["bits"], validate=True), room + 1)
        except (TypeError, ValueError, zlib.error, OverflowError) as error:
            raise PrecutError(f"the bits of an unstructured support are damaged: {error}") from error
        if len(data) != room or not stream.eof or stream.unused_data:
            raise PrecutError(
                f"the bits of an unstructured support are damaged: shape {shape} needs exactly {room} bytes of them"
            )
        return cls.from_bits(np.frombuffer(data, dtype=np.uint8), shape)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Unstructured) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Unstructured:
        return self

    def __str__(self) -> str:
        return "unstructured"

    def __repr__(self) -> str:
        return f"Unstructured(shape={self.shape}, digest={self.digest[:8]})"
