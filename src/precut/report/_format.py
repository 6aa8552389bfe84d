"""Numbers as people read them: counts, sizes, shares and times, the same in every table."""

from __future__ import annotations

import math

__all__ = ["MISSING", "byte_size", "count", "duration", "percent", "si"]

MISSING = "-"  # what a cell without a value shows


def count(value: float) -> str:
    """A whole number with separators between thousands: ``11,173,962``."""
    return f"{value:,.0f}"


def si(value: float, unit: str = "") -> str:
    """Four significant digits and a decimal prefix: ``555.4 M``, ``37.75 M``; below 1000 without: ``12``, ``0.5``."""
    return _scaled(value, unit, 1000, ("", "k", "M", "G", "T", "P"))


def byte_size(value: float) -> str:
    """Bytes in decimal units, four significant digits: ``44.70 MB`` is 44,700,000 bytes."""
    return _scaled(value, "B", 1000, ("", "k", "M", "G", "T", "P"))


def _scaled(value: float, unit: str, step: int, prefixes: tuple[str, ...]) -> str:
    if not math.isfinite(value):
        return str(value)
    exponent = 0
    # What would round up to the next prefix (999,960 to "1000 k") takes it.
    while abs(value) >= step * (1 - 5e-5) and exponent < len(prefixes) - 1:
        value /= step
        exponent += 1
    digits = f"{value:#.4g}" if exponent else f"{value:.4g}"
    return f"{digits} {prefixes[exponent]}{unit}".rstrip()


def percent(value: float) -> str:
    """A share (0 to 1) in per cent with one decimal: ``44.4 %``."""
    return f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Four significant digits in the fitting unit: ``412.3 us``, ``4.120 ms``, ``1.500 s``; minutes from 600 s on."""
    if not math.isfinite(seconds):
        return str(seconds)
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if abs(seconds) < limit * (1 - 5e-5):
            return f"{seconds * factor:#.4g} {unit}"
    if seconds < 600:
        return f"{seconds:#.4g} s"
    return f"{seconds / 60:#.4g} min"
