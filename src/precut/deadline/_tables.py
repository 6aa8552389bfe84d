"""Points as plain lists of numbers by batch size, for choosing in microseconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from precut.deadline._point import Point
from precut.errors import PrecutError, whole

__all__ = ["Table", "Tables"]


@dataclass(frozen=True)
class Table:
    """One batch size. Lists follow the selector's order of points, most accurate first.

    Attributes:
        batch: examples of a call.
        base: seconds by the frontier's statistic, infinite where the point was not measured at this size.
        middle: median seconds.
        by_time: indices of the measured points, quickest first.
        energy: joules of a call, None where unknown.
    """

    batch: int
    base: list[float]
    middle: list[float]
    by_time: list[int]
    energy: list[float | None]


class Tables:
    """The table for each measured batch size."""

    def __init__(self, points: Sequence[Point], time: str) -> None:
        self.sizes = sorted({size for point in points for size in point.batches})
        self._tables = {size: _table(points, time, size) for size in self.sizes}
        self._by_batch = dict(self._tables)

    def __getitem__(self, batch: int) -> Table:
        """The table of the smallest measured size of at least ``batch``."""
        found = self._by_batch.get(batch)
        if found is None or isinstance(batch, bool):
            found = self._find(batch)
        return found

    def _find(self, batch: int) -> Table:
        batch = whole("batch", batch)
        for size in self.sizes:
            if size >= batch:
                return self._by_batch.setdefault(batch, self._tables[size])
        raise PrecutError(
            f"no point was measured at batch {batch}; measured sizes are {self.sizes}: profile with batches=(..., {batch})"
        )


def _table(points: Sequence[Point], time: str, size: int) -> Table:
    known = [size in point.samples for point in points]
    base = [point.time(time, size) if there else float("inf") for point, there in zip(points, known, strict=True)]
    middle = [
        statistics.median(point.samples[size]) if there else float("inf")
        for point, there in zip(points, known, strict=True)
    ]
    by_time = sorted((index for index, there in enumerate(known) if there), key=lambda index: (base[index], index))
    return Table(size, base, middle, by_time, [point.energy(size) for point in points])
