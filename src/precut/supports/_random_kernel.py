"""pSC: every 2-D kernel draws its own support at random. The unstructured relative of the periodic families."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from precut.errors import PrecutError, whole
from precut.supports._support import SupportMaker, kernel_of, makers

__all__ = ["RandomKernel"]

_MAX_SEED = 2**64 - 1


@makers.register("random_kernel")
@dataclass(frozen=True)
class RandomKernel(SupportMaker):
    """Each kernel keeps exactly ``kss`` positions, drawn uniformly (pSC_n; Kundu et al., Allerton 2019).

    Args:
        kss: weights kept in each kernel.
        seed: of the draw.
        stream: which layer of the network draws; ``sparsify`` numbers them, so that equal shapes differ.
    """

    kss: int
    seed: int = 0
    stream: int = 0
    kind: ClassVar[str] = "random_kernel"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kss", whole("kss (the weights kept in a kernel)", self.kss))
        object.__setattr__(self, "seed", whole("seed", self.seed, 0, _MAX_SEED))
        object.__setattr__(self, "stream", whole("stream", self.stream, 0, _MAX_SEED))

    def for_layer(self, number: int) -> RandomKernel:
        return replace(self, stream=number)

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        kh, kw = kernel_of(shape)
        if self.kss > kh * kw:
            raise PrecutError(
                f"{self} asks for kss={self.kss} weights of a {kh}x{kw} kernel, which has {kh * kw}: choose "
                f"kss <= {kh * kw}, or leave such layers dense (ignored_layers)"
            )

    def make_mask(self, shape: tuple[int, ...], groups: int) -> torch.Tensor:
        area = math.prod(kernel_of(shape))
        # Raw bits of a counter-based generator are the one thing NumPy promises never to change.
        bits = np.random.Philox(key=np.array([self.seed, self.stream], dtype=np.uint64))
        keys = bits.random_raw(shape[0] * shape[1] * area).reshape(-1, area)
        chosen = np.argsort(keys, axis=1, kind="stable")[:, : self.kss]
        mask = np.zeros(keys.shape, dtype=bool)
        np.put_along_axis(mask, chosen, True, axis=1)
        return torch.from_numpy(mask.reshape(shape))

    def fields(self) -> dict[str, Any]:
        return {"kss": self.kss, "seed": self.seed, "stream": self.stream}

    def __str__(self) -> str:
        return f"pSC{self.kss}" + (f"_seed{self.seed}" if self.seed else "")
