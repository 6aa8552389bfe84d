"""The one exception that precut raises for what a user passed, and the words it is told in.

A message repeats what came, says what was expected, and names the nearest valid choice or the call that lists them.
"""

from __future__ import annotations

import difflib
import itertools
import operator
from collections.abc import Iterable
from typing import Any

__all__ = ["PrecutError", "first_line", "unknown", "whole"]


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
