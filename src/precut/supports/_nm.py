"""N:M sparsity, chosen before training: n of every m consecutive input channels, at each kernel position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from precut.errors import PrecutError, whole
from precut.supports._class_table import ClassTable
from precut.supports._support import MAX_PERIOD, SupportMaker, makers

__all__ = ["NM"]


@makers.register("nm")
@dataclass(frozen=True)
class NM(SupportMaker):
    """At output o and kernel position p, input i exists where (i + o + p) mod m < n.

    Every run of m input channels then holds exactly n weights (the 2:4 rule of sparse tensor cores, Mishra et al.,
    arXiv 2104.08378), and the rotation lets every output see every input somewhere in its kernel.

    Args:
        n: weights kept of every m.
        m: length of a run of input channels; must divide the channels of a group.
    """

    n: int
    m: int
    kind: ClassVar[str] = "nm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "m", whole("the m of N:M sparsity", self.m, 1, MAX_PERIOD))
        object.__setattr__(self, "n", whole(f"the n of {self.n}:{self.m} sparsity", self.n, 1, self.m))

    def class_table(self, kernel_size: tuple[int, int]) -> ClassTable:
        area, classes = math.prod(kernel_size), range(self.m)
        return ClassTable(
            [[[p for p in range(area) if (b + a + p) % self.m < self.n] for b in classes] for a in classes]
        )

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        if shape[1] % self.m:
            raise PrecutError(
                f"{self} needs input channels (per group) that are a multiple of {self.m}; the layer has {shape[1]}"
            )

    def fields(self) -> dict[str, Any]:
        return {"n": self.n, "m": self.m}

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"
