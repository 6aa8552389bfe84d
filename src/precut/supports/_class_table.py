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
            if isinstance(self.positions, int):
                raise PrecutError(
                    f"ClassTable takes the positions themselves; got {self.positions}. For a score to choose them, "
                    f"precut.prune(..., structure='class:{self.positions}')"
                ) from error
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

    @classmethod
    def of_bits(cls, bits: torch.Tensor, align: int = 1) -> ClassTable:
        """The table whose pairs keep the positions that are true in ``bits``, bool of (P_out, P_in, positions)."""
        return cls([[pair.nonzero().flatten().tolist() for pair in row] for row in bits.cpu()], align)

    def bits(self, area: int) -> torch.Tensor:
        """Bool, (P_out, P_in, area), CPU: whether a pair keeps a position of kernels of ``area`` positions."""
        return torch.from_numpy(self._bits(area))

    def _bits(self, area: int) -> np.ndarray:
        # NumPy, since its memory is the CPU's whatever torch's default device is: models are built on "meta" too.
        bits = np.zeros((self.out_classes, self.in_classes, area), dtype=bool)
        for a, row in enumerate(self.positions):
            for b, pair in enumerate(row):
                bits[a, b, list(pair)] = True
        return bits

    def repeated(self, out_classes: int, in_classes: int) -> ClassTable:
        """A table of finer classes that gives the same masks: of the least common multiples of its numbers of classes
        and these."""
        rows, columns = math.lcm(self.out_classes, out_classes), math.lcm(self.in_classes, in_classes)
        return ClassTable(
            [[self.positions[a % self.out_classes][b % self.in_classes] for b in range(columns)] for a in range(rows)],
            self.align,
        )

    def _classes(self, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The class of every output and of every input channel (within the group) of a layer of this dense shape."""
        return np.arange(shape[0]) // self.align % self.out_classes, np.arange(shape[1]) % self.in_classes

    def pair_sizes(self, shape: Sequence[int]) -> torch.Tensor:
        """How many 2-D kernels each pair has in a layer of this dense shape: int64, (P_out, P_in), CPU. Zero for
        classes that no channel is of."""
        out_class, in_class = self._classes(shape)
        rows = np.bincount(out_class, minlength=self.out_classes)
        columns = np.bincount(in_class, minlength=self.in_classes)
        return torch.from_numpy(np.outer(rows, columns))

    def pair_sums(self, values: torch.Tensor) -> torch.Tensor:
        """``values``, one for each dense weight, summed over the kernels of each pair: float64, (P_out, P_in,
        positions), CPU.

        Args:
            values: of the dense weight's shape.
        """
        out_class, in_class = (torch.from_numpy(classes) for classes in self._classes(values.shape))
        flat = values.detach().to("cpu", torch.float64).reshape(*values.shape[:2], -1)
        rows = flat.new_zeros(self.out_classes, *flat.shape[1:]).index_add_(0, out_class, flat)
        return flat.new_zeros(self.out_classes, self.in_classes, flat.shape[2]).index_add_(1, in_class, rows)

    def class_table(self, kernel_size: tuple[int, int]) -> ClassTable:
        return self

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        kh, kw = kernel_of(shape)
        highest = max((p for row in self.positions for pair in row for p in pair), default=0)
        if highest >= kh * kw:
            raise PrecutError(f"a {kh}x{kw} kernel has positions 0 to {kh * kw - 1}; the table uses {highest}")

    def make_mask(self, shape: tuple[int, ...], groups: int) -> torch.Tensor:
        out_class, in_class = self._classes(shape)
        bits = self._bits(math.prod(kernel_of(shape)))
        return torch.from_numpy(bits[out_class][:, in_class].reshape(shape))

    def fields(self) -> dict[str, Any]:
        return {"positions": [[list(pair) for pair in row] for row in self.positions], "align": self.align}

    def __str__(self) -> str:
        aligned = f"_A{self.align}" if self.align > 1 else ""
        return f"ClassTable{self.out_classes}x{self.in_classes}{aligned}"
