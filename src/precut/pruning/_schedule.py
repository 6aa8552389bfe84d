"""How the density falls over the rounds: functions of (share of the rounds that are done, density at the end)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from precut.errors import PrecutError
from precut.pruning._registry import schedules

__all__ = ["exponential", "kept_after", "linear", "schedule_of"]


@schedules.register("exponential")
def exponential(done: float, density: float) -> float:
    """Every round keeps the same share of what is left."""
    return density**done


@schedules.register("linear")
def linear(done: float, density: float) -> float:
    """Every round removes the same number of weights."""
    return 1.0 - (1.0 - density) * done


def schedule_of(schedule: str | Callable[[float, float], float]) -> Callable[[float, float], float]:
    """The function that a name stands for; a function is taken as it is."""
    if callable(schedule):
        return schedule
    return schedules[schedule]


def kept_after(
    schedule: Callable[[float, float], float], done: int, rounds: int, size: int, kept: int, density: float
) -> int:
    """How many of ``size`` weights are left after ``done`` of ``rounds`` rounds; ``kept`` after the last.

    Args:
        density: that the schedule ends at; ``kept`` is its ``ceil(density * size)``.
    """
    if done == rounds:
        return kept
    now = schedule(done / rounds, density)
    if not isinstance(now, (int, float, np.number)) or not 0 <= now <= 1:
        raise PrecutError(f"the schedule must give a density from 0 to 1; it gave {now!r} at {done / rounds:.3g}")
    return min(size, max(kept, math.ceil(now * size)))
