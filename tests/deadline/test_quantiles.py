"""Quantiles and their bounds, against exact binomial sums, published ranks and synthetic coverage."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from precut import PrecutError
from precut.deadline import needed_samples, quantile, upper_bound, upper_rank, wilson_interval


def exact_rank(n: int, q: Fraction, confidence: Fraction) -> int | None:
    """By the definition, in exact fractions."""
    below = Fraction(0)
    for rank in range(1, n + 1):
        below += math.comb(n, rank - 1) * q ** (rank - 1) * (1 - q) ** (n - rank + 1)
        if below >= confidence:
            return rank
    return None


@pytest.mark.parametrize("n", [1, 2, 5, 10, 28, 29, 59, 100, 298, 299, 300, 473])
@pytest.mark.parametrize(
    ("q", "confidence"), [("1/2", "19/20"), ("9/10", "19/20"), ("99/100", "19/20"), ("9/10", "1/2")]
)
def test_rank_is_the_binomial_one(n, q, confidence):
    expected = exact_rank(n, Fraction(q), Fraction(confidence))
    if expected is None:
        with pytest.raises(PrecutError, match="needs at least"):
            upper_rank(n, float(Fraction(q)), float(Fraction(confidence)))
    else:
        assert upper_rank(n, float(Fraction(q)), float(Fraction(confidence))) == expected


def test_published_ranks():
    """The design sheet's: p99 needs 299 samples, then the largest; 1000 give rank 996, 3000 rank 2980; p99.9 needs 2995."""
    assert needed_samples(0.99, 0.95) == 299
    assert upper_rank(299, 0.99) == 299
    assert upper_rank(1000, 0.99) == 996
    assert upper_rank(3000, 0.99) == 2980
    assert needed_samples(0.999, 0.95) == 2995


@pytest.mark.parametrize(("q", "confidence"), [(0.5, 0.95), (0.9, 0.95), (0.99, 0.95), (0.9, 0.5), (0.999, 0.99)])
def test_needed_is_the_first_that_works(q, confidence):
    n = needed_samples(q, confidence)
    assert 1 - q**n >= confidence > 1 - q ** (n - 1)
    assert upper_rank(n, q, confidence) == n
    with pytest.raises(PrecutError, match=rf"needs at least {n} samples; got {n - 1}"):
        upper_rank(n - 1, q, confidence)


def test_the_quantile_is_numpys_nearest_rank():
    draw = np.random.default_rng(0)
    for n in (100, 101, 250, 999):
        values = draw.exponential(size=n)
        for q in (0.5, 0.9, 0.99):
            assert quantile(values.tolist(), q) == np.quantile(values, q, method="inverted_cdf")


def test_too_few_samples_are_refused_with_the_number():
    with pytest.raises(PrecutError, match=r"^p99 needs at least 100 samples; got 99: measure longer"):
        quantile([1.0] * 99, 0.99)
    with pytest.raises(
        PrecutError, match=r"an upper bound of p99 at 95 % confidence needs at least 299 samples; got 5"
    ):
        upper_bound([1.0] * 5, 0.99)
    with pytest.raises(PrecutError, match=r"^p99.9 needs at least 1000"):
        quantile([1.0], 0.999)
    with pytest.raises(PrecutError, match="q must be a share between 0 and 1; got 99"):
        quantile([1.0], 99)


@pytest.mark.parametrize(
    ("q", "n"), [(0.5, 30), (0.9, 100), (0.99, 400), pytest.param(0.99, 3000, marks=pytest.mark.slow)]
)
def test_bounds_cover_in_10000_synthetic_samples(q, n):
    """Exponential times, whose quantile is -log(1 - q). At least 95 %, less three standard errors of 10,000 trials; and
    not all of them, or the bound would be needlessly loose: the exact coverage of the rank says how many."""
    draw = np.random.default_rng(7)
    rank = upper_rank(n, q)
    covered = 0
    for _ in range(10):
        times = np.partition(draw.exponential(size=(1000, n)), rank - 1, axis=1)[:, rank - 1]
        covered += int((times >= -math.log(1 - q)).sum())
    error = math.sqrt(0.05 * 0.95 / 10_000)
    assert covered / 10_000 >= 0.95 - 3 * error
    true = pytest.importorskip("scipy.stats").binom.cdf(rank - 1, n, q)
    assert covered / 10_000 == pytest.approx(true, abs=4 * error)


def test_wilson_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for hits, n in ((0, 10), (1, 10), (10, 10), (33, 3000), (1500, 3000)):
        expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(0, 0) == (0.0, 1.0)
