"""What a selector decided about one request."""

from __future__ import annotations

from typing import NamedTuple

from precut.deadline._point import Point
from precut.errors import PrecutError

__all__ = ["FITS", "FREE", "INFEASIBLE", "PROBE", "WITHHELD", "Decision", "InfeasibleError"]

FITS = "fits"
WITHHELD = "withheld"
INFEASIBLE = "infeasible"
PROBE = "probe"
FREE = "no deadline"


class InfeasibleError(PrecutError):
    """No operating point fits the time that is left, and the selector was told to raise then."""


class Decision(NamedTuple):
    """What to run for a request, and what was promised.

    Attributes:
        point: what to run; None to run nothing (the request is dropped).
        promised: whether the answer was promised within ``remaining_s``.
        reason: "fits" (promised); "withheld" (it would fit, but the miss budget is spent for now); "infeasible"
            (nothing fits; ``point`` is the best effort, or None); "probe" (run to learn its time); "no deadline".
        remaining_s: seconds that were left; infinite without a deadline.
        bound_s: seconds that the point is expected to keep; infinite for none.
        batch: examples of the call.
        number: of the decision, from 0 up.
        place: of the point in the selector's order; -1 for none.
        expected_s: seconds that one unit of score stands for.
    """

    point: Point | None
    promised: bool
    reason: str
    remaining_s: float = float("inf")
    bound_s: float = float("inf")
    batch: int = 1
    number: int = 0
    place: int = -1
    expected_s: float = 0.0
