"""Successive halving: candidates that are behind at a rung are not trained to the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["keeps_going", "rung_of"]


def rung_of(before: float, now: float, eta: int, rungs: int) -> int | None:
    """The rung (0 is the lowest) that training reached on its way from the share ``before`` to the share ``now``; the
    highest of several, None for none. Rungs lie at 1/eta^rungs, ..., 1/eta of the training."""
    reached = None
    for rung in range(rungs):
        place = float(eta) ** (rung - rungs)
        if before < place * (1 - 1e-9) and now >= place * (1 - 1e-9):
            reached = rung
    return reached


def keeps_going(own: tuple[float, float], others: Sequence[tuple[float, float]], eta: int) -> bool:
    """Whether a candidate is worth training on.

    Asynchronous successive halving (Li et al., "A system for massively parallel hyperparameter tuning", 2020) keeps the
    best 1 / eta at each rung. Here time counts too: a candidate is compared with those that are no slower, since a slower
    one that is more accurate takes nothing from it.

    Args:
        own: (seconds, accuracy at this rung).
        others: the same of all candidates that reached this rung before.
        eta: a rung keeps the best one of eta.
    """
    seconds, accuracy = own
    rivals = [value for time, value in others if time <= seconds]
    if len(rivals) + 1 < eta:
        return True
    better = sum(value > accuracy for value in rivals)
    return better < math.ceil((len(rivals) + 1) / eta)
