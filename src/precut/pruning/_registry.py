"""The three tables of this room: scores, allocations and schedules, which are independent of one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from precut._registry import Registry

if TYPE_CHECKING:
    from precut.pruning._allocation import Allocation
    from precut.pruning._scores import Score

__all__ = ["allocations", "schedules", "scores"]

scores: Registry[type[Score]] = Registry("score", "precut.pruning.scores.names()")
allocations: Registry[Allocation] = Registry("allocation", "precut.pruning.allocations.names()")
schedules: Registry[Callable[[float, float], float]] = Registry("schedule", "precut.pruning.schedules.names()")
