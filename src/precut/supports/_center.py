"""Kernels reduced to their centre, alone or between full ones (HetConv): the baseline that boosting must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from precut.errors import PrecutError, whole
from precut.supports._class_table import ClassTable
from precut.supports._support import MAX_PERIOD, SupportMaker, makers

__all__ = ["CenterOnly"]


@makers.register("center")
@dataclass(frozen=True)
class CenterOnly(SupportMaker):
    """Only the centre of each kernel exists; with ``period``, one kernel in every period stays full.

    ``CenterOnly(period=4)`` is HetConv with P = 4 (Singh et al., CVPR 2019, arXiv 1903.04120): a quarter of the kernels
    are full, shifted by one input channel per filter, the others 1x1.

    Args:
        period: None, or the channels among which one kernel is full.
    """

    period: int | None = None
    kind: ClassVar[str] = "center"

    def __post_init__(self) -> None:
        if self.period is not None:
            object.__setattr__(self, "period", whole("period", self.period, 1, MAX_PERIOD))

    def class_table(self, kernel_size: tuple[int, int]) -> ClassTable:
        kh, kw = kernel_size
        if kh % 2 == 0 or kw % 2 == 0:
            raise PrecutError(f"a {kh}x{kw} kernel has no centre; {self} needs odd kernel sizes")
        centre = [(kh // 2) * kw + kw // 2]
        if self.period is None:
            return ClassTable([[centre]])
        full = list(range(kh * kw))
        classes = range(self.period)
        return ClassTable([[full if (a + b) % self.period == 0 else centre for b in classes] for a in classes])

    def fields(self) -> dict[str, Any]:
        return {"period": self.period}

    def __str__(self) -> str:
        return "center" if self.period is None else f"center_P{self.period}"
