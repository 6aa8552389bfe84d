"""How the density falls over the rounds: functions of (share of the rounds that are done, density at the end)."""

from __future__ import annotations

import math
from collections.abc import Callable

from precut.errors import real
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
    part = done / rounds
    now = real(f"what the schedule gives at {part:.3g}", schedule(part, density), 0, 1, what="density")
    return min(size, max(kept, math.ceil(now * size)))
