"""Every weight exists: the dense network, as a support like any other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from precut.supports._class_table import ClassTable
from precut.supports._support import SupportMaker, makers

__all__ = ["Dense"]


@makers.register("dense")
@dataclass(frozen=True)
class Dense(SupportMaker):
    """All weights of every kernel."""

    kind: ClassVar[str] = "dense"

    def class_table(self, kernel_size: tuple[int, int]) -> ClassTable:
        return ClassTable([[list(range(math.prod(kernel_size)))]])

    def fields(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return "dense"
