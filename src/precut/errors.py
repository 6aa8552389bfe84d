"""The one exception that precut raises for what a user passed, and the words it is told in.

A message repeats what came, says what was expected, and names the nearest valid choice or the call that lists them.
"""

from __future__ import annotations

import difflib
import itertools
import math
import operator
from collections.abc import Iterable
from typing import Any

__all__ = ["PrecutError", "first_line", "real", "unknown", "whole"]


class PrecutError(Exception):
    """Something that the caller passed (an argument, a file, a model, data) cannot be used as it is."""


def first_line(error: Exception) -> str:
    """What another library's error says, without the pages that may follow; "" where it says nothing."""
    return (str(error).strip().splitlines() or [""])[0]


def unknown(kind: str, given: object, choices: Iterable[str], see: str = "") -> PrecutError:
    """The error for a name that is not among ``choices``; returned, not raised, so that ``raise`` stays at the call.

    Args:
        kind: what is named, in the singular ("model", "support").
        given: what the user wrote.
        choices: every valid name.
        see: the call that lists the names; used when no valid name is near the given one.
    """
    names = sorted(choices)
    near = _nearest(str(given).lower(), names)
    if near is not None:
        hint = f"did you mean {near!r}?"
    elif see and len(names) > 12:
        hint = f"see {see}"
    elif names:
        hint = "choose one of " + ", ".join(repr(name) for name in names)
    else:
        hint = "there is none"
    return PrecutError(f"unknown {kind} {given!r}: {hint}")


def _nearest(given: str, names: list[str]) -> str | None:
    """The name most like ``given`` (lower case); of equally like ones that with the longest beginning in common."""

    def likeness(name: str) -> tuple[float, int, str]:
        lower = name.lower()
        begun = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(lower, given, strict=False))
        return difflib.SequenceMatcher(None, lower, given).ratio(), len(list(begun)), lower

    best = max(names, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= 0.5 else None


def whole(name: str, given: Any, least: int = 1, most: int | None = None) -> int:
    """``given`` as an int, where it is a whole number (of Python or NumPy, not a bool) from ``least`` to ``most``.

    Args:
        name: the argument, for the message.

    Raises:
        PrecutError: for anything else.
    """
    try:
        value = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise PrecutError(f"{name} must be a whole number {limits}; got {given!r}")
    return value


def real(
    name: str,
    given: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    finite: bool = False,
    what: str = "number",
) -> float:
    """``given`` as a float, where it is a number (of Python, NumPy or torch; no bool, no NaN) within the limits.

    Args:
        name: the argument, for the message.
        least, most: limits that it may reach.
        above, below: limits that it may not reach.
        finite: whether infinities are refused.
        what: that was expected, for the message ("share", "number of seconds").

    Raises:
        PrecutError: for anything else.
    """
    value = given if type(given) is float else _as_float(given)
    if (
        value == value  # only NaN differs from itself
        and (least is None or value >= least)
        and (most is None or value <= most)
        and (above is None or value > above)
        and (below is None or value < below)
        and not (finite and math.isinf(value))
    ):
        return value
    if above is not None and below is not None:
        limits = f" between {above:g} and {below:g}"
    elif least is not None and most is not None:
        limits = f" from {least:g} to {most:g}"
    else:
        low = f" above {above:g}" if above is not None else f" from {least:g}" if least is not None else ""
        high = f" at most {most:g}" if most is not None else f" below {below:g}" if below is not None else ""
        limits = low + (" and" if low and high else " up" if least is not None else "") + high
    raise PrecutError(f"{name} must be a {'finite ' if finite else ''}{what}{limits}; got {given!r:.80}")


def _as_float(given: Any) -> float:
    try:
        return math.nan if isinstance(given, (bool, str, bytes)) else float(given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan
