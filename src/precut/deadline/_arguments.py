"""Numbers that callers pass, checked."""

from __future__ import annotations

from typing import Any

from precut.errors import PrecutError

__all__ = ["real", "within"]


def real(name: str, value: Any, what: str = "a number") -> float:
    """``value`` as a float, where it is a number (of Python or NumPy, not a bool) and not NaN.

    Args:
        name: the argument, for the message.
        what: that was expected, for the message.

    Raises:
        PrecutError: for anything else.
    """
    if type(value) is float and value == value:  # the common case, at little cost
        return value
    try:
        number = float("nan") if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    # A number is the one thing that equals itself.
    if number != number:
        raise PrecutError(f"{name} must be {what}; got {value!r}")
    return number


def within(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise PrecutError(f"{name} must be a number from {low:g} to {high:g}; got {value!r}")
    return float(value)
