"""Correlations and quantiles against brute force and published tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precut import PrecutError
from precut.topology._stats import bootstrap_interval, kendall, pearson, ranks, spearman, student_quantile

NUMBERS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=12)


@given(NUMBERS)
def test_kendall_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    agree = untied_x = untied_y = 0
    for (a, b), (c, d) in itertools.combinations(pairs, 2):
        agree += (1 if (a - c) * (b - d) > 0 else -1) if (a - c) * (b - d) else 0
        untied_x += a != c
        untied_y += b != d
    if untied_x and untied_y:
        assert kendall(x, y) == pytest.approx(agree / math.sqrt(untied_x * untied_y))
    else:
        assert math.isnan(kendall(x, y))


def test_infinite_numbers_tie_with_each_other() -> None:
    """As NASWOT's are where two inputs switch alike."""
    assert kendall([-math.inf, -math.inf, 1, 2], [1, 2, 3, 4]) == pytest.approx(kendall([0, 0, 1, 2], [1, 2, 3, 4]))
    assert math.isnan(kendall([math.nan, 1, 2], [1, 2, 3]))


@given(NUMBERS)
def test_spearman_correlates_ranks(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    # The rank of a value: how many are smaller, and the middle of those that are equal.
    expected = [[sum(b < a for b in z) + (sum(b == a for b in z) + 1) / 2 for a in z] for z in (x, y)]
    assert ranks(x).tolist() == expected[0]
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert spearman(x, y) == pytest.approx(np.corrcoef(*expected)[0, 1])
        assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    else:
        assert math.isnan(spearman(x, y))


# Student's t, 97.5 % and 95 % points, as printed in every table.
TABLE = {(0.975, 1): 12.706, (0.975, 2): 4.303, (0.975, 3): 3.182, (0.975, 7): 2.365, (0.975, 10): 2.228,
         (0.975, 30): 2.042, (0.95, 5): 2.015, (0.95, 100): 1.660, (0.995, 12): 3.055}  # fmt: skip


@pytest.mark.parametrize("point", TABLE, ids=str)
def test_student_quantiles(point: tuple[float, int]) -> None:
    assert student_quantile(*point) == pytest.approx(TABLE[point], abs=6e-4)
    assert student_quantile(1 - point[0], point[1]) == pytest.approx(-TABLE[point], abs=6e-4)


def test_bootstrap_intervals_cover() -> None:
    """Of the correlation of 40 normal pairs, 100 times: the nominal 95 % are reached to within what 100 draws tell."""
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        x = random.normal(size=40)
        y = 0.6 * x + 0.8 * random.normal(size=40)
        low, high = bootstrap_interval(pearson, x, y, draws=300, seed=seed)
        hits += low <= 0.6 <= high
    assert 86 <= hits <= 100


def test_too_few_points_give_no_interval() -> None:
    assert all(map(math.isnan, bootstrap_interval(kendall, [1, 2, 3], [1, 2, 3])))
    assert all(map(math.isnan, bootstrap_interval(kendall, [1] * 5, [1, 2, 3, 4, 5])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kendall([1, 2], [1]), "two lists of one length, at least 2; got 2 and 1"),
        (lambda: spearman([1], [1]), "at least 2; got 1 and 1"),
        (lambda: student_quantile(1.0, 3), "no t quantile for probability 1.0 and 3"),
    ],
)
def test_wrong_uses(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PrecutError) as raised:
        call()
    assert message in str(raised.value)
