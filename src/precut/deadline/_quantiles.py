"""Quantiles of measured times, and bounds on them that hold for any distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from precut.errors import PrecutError, real

__all__ = ["needed_samples", "quantile", "upper_bound", "upper_rank", "wilson_interval"]


def needed_samples(q: float, confidence: float | None = None) -> int:
    """The fewest samples that can tell the ``q`` quantile, or with ``confidence`` an upper bound on it.

    The quantile itself needs one sample above it on average: 100 for p99. A bound needs the largest sample to exceed the
    quantile with that confidence, q^n <= 1 - confidence: 299 for p99 at 95 %.
    """
    real("q", q, above=0, below=1, what="share")
    if confidence is None:
        return max(1, math.ceil(round(1 / (1 - q), 9)))
    real("confidence", confidence, above=0, below=1, what="share")
    n = math.ceil(math.log(1 - confidence) / math.log(q))
    return n if 1 - q**n >= confidence else n + 1


def _refuse(name: str, n: int, needed: int) -> PrecutError:
    return PrecutError(f"{name} needs at least {needed} samples; got {n}: measure longer, or ask for a lower quantile")


def _text(q: float) -> str:
    return f"p{100 * q:.10g}"


def quantile(samples: Sequence[float], q: float) -> float:
    """The nearest-rank ``q`` quantile: the smallest sample that at least a share ``q`` of the samples do not exceed.

    Raises:
        PrecutError: with too few samples, saying how many it takes.
    """
    needed = needed_samples(q)
    if len(samples) < needed:
        raise _refuse(_text(q), len(samples), needed)
    return sorted(samples)[math.ceil(round(q * len(samples), 9)) - 1]


def upper_rank(n: int, q: float, confidence: float = 0.95) -> int:
    """The smallest rank r (counted from 1) such that the r-th of ``n`` sorted samples is at least the true ``q``
    quantile with the given ``confidence``, whatever the distribution: P(Binomial(n, q) <= r - 1) >= confidence.

    Raises:
        PrecutError: when not even the largest sample is, saying how many samples it takes.
    """
    needed = needed_samples(q, confidence)
    if n < needed:
        raise _refuse(f"an upper bound of {_text(q)} at {100 * confidence:g} % confidence", n, needed)
    # Seen from above: sample r fails when at most n - r samples lie over the quantile, a Binomial(n, 1 - q) lower tail.
    log_p, log_q = math.log1p(-q), math.log(q)
    tail = 0.0
    for above in range(n + 1):
        tail += math.exp(
            math.lgamma(n + 1)
            - math.lgamma(above + 1)
            - math.lgamma(n - above + 1)
            + above * log_p
            + (n - above) * log_q
        )
        if tail > 1 - confidence:
            return n - above + 1
    raise AssertionError("a binomial distribution sums to 1")


def upper_bound(samples: Sequence[float], q: float, confidence: float = 0.95) -> float:
    """An upper confidence bound of the ``q`` quantile by order statistics; see :func:`upper_rank`."""
    return sorted(samples)[upper_rank(len(samples), q, confidence) - 1]


def wilson_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share that was ``hits`` of ``n``; (0, 1) for n = 0."""
    from statistics import NormalDist

    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + real("confidence", confidence, above=0, below=1, what="share")) / 2)
    share = hits / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if hits == 0 else (middle - half) / scale
    high = 1.0 if hits == n else (middle + half) / scale
    return max(0.0, low), min(1.0, high)
