"""Rank correlations, Student's quantile, and bootstrap intervals; NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from precut.errors import PrecutError

__all__ = ["bootstrap_interval", "kendall", "pearson", "ranks", "spearman", "student_quantile"]

Floats = npt.NDArray[np.float64]


def _pair(x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise PrecutError(
            f"a correlation needs two lists of one length, at least 2; got {len(first)} and {len(second)}"
        )
    return first, second


def kendall(x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> float:
    """Kendall's tau-b: concordant minus discordant pairs over the geometric mean of untied pairs; nan where one list is
    constant."""
    first, second = _pair(x, y)
    upper = np.triu_indices(len(first), 1)
    if np.isnan(first).any() or np.isnan(second).any():
        return math.nan
    # No differences: two numbers that are both infinite are equal.
    a, b = (((z[:, None] > z[None, :]) * 1 - (z[:, None] < z[None, :]))[upper] for z in (first, second))
    untied = math.sqrt(float((a != 0).sum()) * float((b != 0).sum()))
    return float((a * b).sum()) / untied if untied else math.nan


def ranks(x: Sequence[float] | Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    values = np.asarray(x, np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts + 1) / 2)[inverse]


def pearson(x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> float:
    """The linear correlation; nan where one list is constant."""
    first, second = _pair(x, y)
    a, b = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def spearman(x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> float:
    """Spearman's rho: the linear correlation of ranks."""
    first, second = _pair(x, y)
    return pearson(ranks(first), ranks(second))


def bootstrap_interval(
    statistic: Callable[..., float],
    *lists: Sequence[float] | Floats,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high) of ``statistic`` over resampled points: percentiles of the draws where it is defined; nan, nan for
    fewer than 4 points, of which a bootstrap can tell nothing.

    Args:
        lists: of one length; point i of all of them is drawn together.
    """
    arrays = [np.asarray(values, np.float64) for values in lists]
    count = len(arrays[0])
    if count < 4:
        return math.nan, math.nan
    picks = np.random.default_rng(seed).integers(count, size=(draws, count))
    found = np.array([statistic(*(array[pick] for array in arrays)) for pick in picks])
    found = found[np.isfinite(found)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, by bisection on its exact distribution function.

    For whole degrees of freedom that is a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4).
    """
    if not 0 < probability < 1 or freedom < 1:
        raise PrecutError(f"no t quantile for probability {probability!r} and {freedom!r} degrees of freedom")
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        if _student_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        total, term = 0.0, cosine
        for k in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= cosine * cosine * (2 * k) / (2 * k + 1)
        inside = 2 / math.pi * (angle + sine * total)
    else:
        total, term = 0.0, 1.0
        for k in range(1, freedom // 2 + 1):
            total += term
            term *= cosine * cosine * (2 * k - 1) / (2 * k)
        inside = sine * total
    return (1 + inside) / 2
