"""The recent past: a bounded window of scores with its quantiles always at hand, and the present slow-down."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

__all__ = ["Scores"]


class Scores:
    """The last ``size`` scores of all points together, in arrival order and sorted, overall and by point.

    A score is a measured time over what was expected. A point that was not run for ``size`` rounds has no scores of its
    own left, and so falls back to the pooled ones: what the machine does now matters more than what a point once did.

    Args:
        points: how many points there are.
        size: of the window.
        shrink: own scores that weigh as much as all pooled ones: a point's quantile is (n own + shrink pooled) /
            (n + shrink) with n own scores.
    """

    __slots__ = ("_next", "_ring", "own", "pooled", "shrink", "size")

    def __init__(self, points: int, size: int, shrink: float) -> None:
        self.size = size
        self.shrink = shrink
        self.pooled: list[float] = []
        self.own: list[list[float]] = [[] for _ in range(points)]
        self._ring: list[tuple[int, float]] = []
        self._next = 0

    def add(self, point: int, score: float) -> None:
        """Takes in one score, forgetting the oldest when the window is full. O(log size) comparisons."""
        ring = self._ring
        if len(ring) < self.size:
            ring.append((point, score))
        else:
            slot = self._next
            old_point, old = ring[slot]
            del self.pooled[bisect_left(self.pooled, old)]
            own = self.own[old_point]
            del own[bisect_left(own, old)]
            ring[slot] = (point, score)
            self._next = slot + 1 if slot + 1 < self.size else 0
        insort(self.pooled, score)
        insort(self.own[point], score)

    def quantile(self, point: int, alpha: float) -> float:
        """The (1 - alpha) quantile for a point, shrunk to the pooled one; the largest score where ``alpha`` is below
        what the window resolves. (n + 1)(1 - alpha) is the rank that makes conformal prediction exact for exchangeable
        scores."""
        pooled = self.pooled
        n = len(pooled)
        keep = 1.0 - alpha if alpha > 0.0 else 1.0
        index = int((n + 1) * keep)
        value = pooled[index if index < n else n - 1]
        own = self.own[point]
        n = len(own)
        if n:
            index = int((n + 1) * keep)
            value += (own[index if index < n else n - 1] - value) * n / (n + self.shrink)
        return value

    def first_fit(
        self, order: Sequence[int], expected: Sequence[float], alpha: float, limit: float
    ) -> tuple[int, float]:
        """The first point of ``order`` whose quantile times ``expected`` is at most ``limit``, with that product; else
        (-1, infinity). The same numbers as ``quantile`` gives, in one loop: this is where a choice spends its time."""
        pooled, shrink = self.pooled, self.shrink
        keep = 1.0 - alpha if alpha > 0.0 else 1.0
        n = len(pooled)
        index = int((n + 1) * keep)
        common = pooled[index if index < n else n - 1]
        # No quantile is below the least of all scores: what cannot fit even so is passed over (a little wider than that,
        # because a division rounds).
        reach = limit / pooled[0] * (1 + 1e-9) if limit > 0.0 < pooled[0] else math.inf
        for point in order:
            if expected[point] > reach:
                continue
            own = self.own[point]
            n = len(own)
            if n:
                index = int((n + 1) * keep)
                bound = (common + (own[index if index < n else n - 1] - common) * n / (n + shrink)) * expected[point]
            else:
                bound = common * expected[point]
            if bound <= limit:
                return point, bound
        return -1, math.inf

    def state(self) -> list[list[Any]]:
        """[[point, score], ...], oldest first."""
        order = self._ring[self._next :] + self._ring[: self._next]
        return [[point, score] for point, score in order]
