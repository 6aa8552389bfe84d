"""Periodic pre-defined sparse kernels (PS and PSD): n of k*k weights, repeating within and across filters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from precut.errors import PrecutError, whole
from precut.supports._class_table import ClassTable
from precut.supports._support import MAX_PERIOD, Support, SupportMaker, kernel_of, makers
from precut.supports._tables import PUBLISHED, Table, balanced_table, drift

__all__ = ["Periodic"]

_BOOSTED_PERIODS = (8, 16)  # the published periods of the families with full kernels
_MOST_DRIFT = 0.25  # pixels; every published family leans less than 0.1


@makers.register("periodic")
@dataclass(frozen=True)
class Periodic(SupportMaker):
    """support(o, i) = pattern[(o + i + phase) mod period], counting channels from 0, i within the group.

    Residues 1 ... period - 1 of the pattern cycle through the variants; residue 0 is the full kernel with
    ``full_kernel``, else the last variant. So the period runs over input channels within a filter, and each next filter
    is shifted by one channel (Kundu et al., Allerton 2019, arXiv 1910.00724; IEEE TC 2020, arXiv 2001.10710).

    Args:
        kss: kernel support size, the weights kept in each kernel (but the full ones).
        period: P, the channels after which the pattern repeats.
        full_kernel: one kernel in every period stays full ("boosting": the PSD families).
        variants: ordered lists of ``kss`` (or more; the first ``kss`` count) kernel positions. By default the published
            tables for 3x3 kernels where the papers have them (kss 4, 2, 1 with period 4, 6, 9, or boosted with 8, 16),
            and otherwise balanced tables of our own.
        phase: shifts the pattern; the papers' code has 1.
        align: the phase advances once per ``align`` output channels instead of at each, so that neighbouring filters
            share their supports and fill vector registers in narrow layers. The cost: an input channel is met by only
            out / align different phases (layers of fewer than align * period channels never show it some variants).
        nested: take tables of our own in which the support for a smaller ``kss`` lies within this one. They are
            balanced for every ``kss`` together, so for a single one they may lean a little more.

    Our own tables use min(kh kw, kss P) positions, none more than once oftener than another, and lean from the kernel's
    centre as little as that allows; the centre is among them wherever it exists, unless kss P = 2. ``support`` warns
    (UserWarning) when a table leans more than a quarter of a pixel.
    """

    kss: int
    period: int
    full_kernel: bool = False
    variants: Sequence[Sequence[int]] | None = None
    phase: int = 1
    align: int | None = None
    nested: bool = False
    kind: ClassVar[str] = "periodic"

    def __post_init__(self) -> None:
        if not isinstance(self.full_kernel, bool) or not isinstance(self.nested, bool):
            raise PrecutError(f"full_kernel and nested are True or False; got {self.full_kernel!r} and {self.nested!r}")
        # With a full kernel, residue 0 is taken: there must be another for the variants.
        least = 2 if self.full_kernel else 1
        object.__setattr__(self, "kss", whole("kss (the weights kept in a kernel)", self.kss))
        object.__setattr__(self, "period", whole("period", self.period, least, MAX_PERIOD))
        object.__setattr__(self, "phase", whole("phase", self.phase, -MAX_PERIOD, MAX_PERIOD))
        if self.align is not None:
            object.__setattr__(self, "align", whole("align (output channels a phase)", self.align))
        if self.variants is not None:
            object.__setattr__(self, "variants", self._checked(self.variants))

    def _checked(self, given: Sequence[Sequence[int]]) -> Table:
        if self.nested:
            raise PrecutError("nested=True asks for tables of our own; leave it out to give variants")
        try:
            variants = tuple(tuple(whole("a kernel position", p, 0) for p in variant) for variant in given)
        except TypeError as error:
            raise PrecutError(
                f"variants must be lists of kernel positions, [[0, 1], [4, 5], ...]; got {given!r}"
            ) from error
        if not variants:
            raise PrecutError("variants must hold at least one list of kernel positions; got none")
        for variant in variants:
            if len(variant) < self.kss or len(set(variant)) != len(variant):
                raise PrecutError(
                    f"every variant needs at least kss={self.kss} different positions; got {list(variant)}"
                )
        return variants

    def _variants(self, kernel_size: tuple[int, int]) -> Table:
        if self.variants is not None:
            return tuple(tuple(variant[: self.kss]) for variant in self.variants)
        published = PUBLISHED.get(self.kss, ()) if kernel_size == (3, 3) and not self.nested else ()
        periods = _BOOSTED_PERIODS if self.full_kernel else (len(published),)
        if published and self.period in periods:
            return published
        count = self.period - 1 if self.full_kernel else self.period
        table = balanced_table(count, kernel_size, None if self.nested else self.kss)
        return tuple(variant[: self.kss] for variant in table)

    def pattern(self, kernel_size: tuple[int, int] = (3, 3)) -> Table:
        """The kernel positions of residues 0 ... period - 1.

        Raises:
            PrecutError: when the kernel has fewer positions than are asked for.
        """
        kh, kw = kernel_size
        area = kh * kw
        if self.kss > area:
            raise PrecutError(
                f"{self} asks for kss={self.kss} weights of a {kh}x{kw} kernel, which has {area}: choose "
                f"kss <= {area}, or leave such layers dense (ignored_layers)"
            )
        variants = self._variants(kernel_size)
        highest = max(max(variant) for variant in variants)
        if highest >= area:
            raise PrecutError(f"a {kh}x{kw} kernel has positions 0 to {area - 1}; the variants use {highest}")
        zero = tuple(range(area)) if self.full_kernel else variants[-1]
        return (zero, *(variants[(residue - 1) % len(variants)] for residue in range(1, self.period)))

    def class_table(self, kernel_size: tuple[int, int]) -> ClassTable:
        return _class_table(self, kernel_size)

    def support(self, shape: Sequence[int], groups: int = 1) -> Support:
        bound = super().support(shape, groups)
        kh, kw = kernel_of(bound.shape)
        lean = drift(self.pattern((kh, kw)), (kh, kw))
        if lean > _MOST_DRIFT:
            warnings.warn(
                f"the variants of {self} lean {lean:.2f} pixels off the centre of a {kh}x{kw} kernel (more than "
                f"{_MOST_DRIFT}): every layer shifts its image by that much; choose "
                + ("another period or kss" if self.variants is None else "positions that balance"),
                UserWarning,
                stacklevel=2,
            )
        return bound

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"kss": self.kss, "period": self.period, "full_kernel": self.full_kernel}
        if self.variants is not None:
            fields["variants"] = [list(variant) for variant in self.variants]
        if self.phase != 1:
            fields["phase"] = self.phase
        if self.align is not None:
            fields["align"] = self.align
        if self.nested:
            fields["nested"] = True
        return fields

    def __str__(self) -> str:
        name = f"PS{'D' if self.full_kernel else ''}{self.kss}_P{self.period}"
        name += f"_A{self.align}" if self.align is not None else ""
        name += f"_phase{self.phase}" if self.phase != 1 else ""
        name += "_nested" if self.nested else ""
        return name + ("_custom" if self.variants is not None else "")


@lru_cache(maxsize=256)
def _class_table(maker: Periodic, kernel_size: tuple[int, int]) -> ClassTable:
    pattern = maker.pattern(kernel_size)
    classes = range(maker.period)
    rows = [[pattern[(a + b + maker.phase) % maker.period] for b in classes] for a in classes]
    return ClassTable(rows, align=maker.align or 1)
