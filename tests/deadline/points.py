"""Operating points with known laws of latency."""

from __future__ import annotations

import random
from collections.abc import Sequence

from precut.deadline import Point


def lognormal(seed: int, middle: float, n: int = 400, spread: float = 0.1) -> list[float]:
    draw = random.Random(seed)
    return [middle * draw.lognormvariate(0, spread) for _ in range(n)]


def ladder(count: int = 5, n: int = 400, spread: float = 0.1) -> list[Point]:
    """``count`` points of 1, 2, ... ms (medians), accuracies rising from 0.5."""
    return [
        Point(f"p{index}", 0.5 + 0.02 * index, lognormal(index, 1e-3 * (index + 1), n, spread))
        for index in range(count)
    ]


def exact(pairs: Sequence[tuple[float, float]], n: int = 300) -> list[Point]:
    """Points of constant times: (seconds, accuracy)."""
    return [Point(f"p{index}", accuracy, [seconds] * n) for index, (seconds, accuracy) in enumerate(pairs)]
