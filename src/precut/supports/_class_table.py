"""The general structured support: every pair of residue classes of channels keeps its own list of kernel positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from precut.errors import PrecutError, whole
from precut.supports._support import SupportMaker, kernel_of, makers

__all__ = ["ClassTable"]


@makers.register("class_table")
@dataclass(frozen=True)
class ClassTable(SupportMaker):
    """Kernel positions for each pair of residue classes, the form that the fast operators run as dense blocks.

    The kernel from input channel i to output channel o keeps ``positions[(o // align) % P_out][i % P_in]``, with i
    counted within the group.

    Args:
        positions: P_out lists of P_in lists of kernel positions (row-major in the kernel): any number, none, or all.
            Kept in ascending order.
        align: consecutive output channels that share a class before the next class begins.
    """

    positions: Sequence[Sequence[Sequence[int]]]
    align: int = 1
    kind: ClassVar[str] = "class_table"

    def __post_init__(self) -> None:
        try:
            rows = tuple(
                tuple(tuple(sorted(whole("a kernel position", p, 0) for p in pair)) for pair in row)
                for row in self.positions
            )
        except TypeError as error:
            raise PrecutError(
                "ClassTable(positions) needs one list of kernel positions for each pair of classes: "
                f"positions[out_class][in_class] = [0, 4, ...]; got {self.positions!r}"
            ) from error
        widths = sorted({len(row) for row in rows})
        if len(widths) != 1 or not widths[0]:
            raise PrecutError(
                "ClassTable(positions) needs at least one output class, and the same number (at least one) of input "
                f"classes in each; got {len(rows)} output classes with {widths} input classes"
            )
        for a, row in enumerate(rows):
            for b, pair in enumerate(row):
                if len(set(pair)) != len(pair):
                    raise PrecutError(f"class pair ({a}, {b}) names a kernel position twice: {list(pair)}")
        object.__setattr__(self, "positions", rows)
        object.__setattr__(self, "align", whole("align", self.align))

    @property
    def out_classes(self) -> int:
        """P_out."""
        return len(self.positions)

    @property
    def in_classes(self) -> int:
        """P_in."""
        return len(self.positions[0])

    @classmethod
    def of_mask(cls, mask: torch.Tensor, out_classes: int, in_classes: int, align: int = 1) -> ClassTable | None:
        """The table of at most so many classes that gives exactly ``mask`` (bool; (out, in, kh, kw) or (out, in)).

        None where there is no such table.
        """
        corner = mask[::align][:out_classes, :in_classes]
        pairs = corner.reshape(*corner.shape[:2], -1)
        table = cls([[pair.nonzero().flatten().tolist() for pair in row] for row in pairs], align)
        return table if torch.equal(table.make_mask(tuple(mask.shape), 1), mask) else None

    def class_table(self, kernel_size: tuple[int, int]) -> ClassTable:
        return self

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        kh, kw = kernel_of(shape)
        highest = max((p for row in self.positions for pair in row for p in pair), default=0)
        if highest >= kh * kw:
            raise PrecutError(f"a {kh}x{kw} kernel has positions 0 to {kh * kw - 1}; the table uses {highest}")

    def make_mask(self, shape: tuple[int, ...], groups: int) -> torch.Tensor:
        area = math.prod(kernel_of(shape))
        table = np.zeros((self.out_classes, self.in_classes, area), dtype=bool)
        for a, row in enumerate(self.positions):
            for b, pair in enumerate(row):
                table[a, b, list(pair)] = True
        out_class = np.arange(shape[0]) // self.align % self.out_classes
        in_class = np.arange(shape[1]) % self.in_classes
        # NumPy, since its memory is the CPU's whatever torch's default device is: models are built on "meta" too.
        return torch.from_numpy(table[out_class][:, in_class].reshape(shape))

    def fields(self) -> dict[str, Any]:
        return {"positions": [[list(pair) for pair in row] for row in self.positions], "align": self.align}

    def __str__(self) -> str:
        aligned = f"_A{self.align}" if self.align > 1 else ""
        return f"ClassTable{self.out_classes}x{self.in_classes}{aligned}"
