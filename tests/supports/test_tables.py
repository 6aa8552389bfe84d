"""Our own tables of variants: how evenly they use the kernel, how little they lean, and that they never change."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.supports._tables import balanced_table, drift

KERNELS = [(3, 3), (5, 5), (7, 7), (3, 5), (1, 3), (5, 1), (1, 1), (2, 2), (4, 4), (2, 3)]


def mean_offset(positions: list[int], kernel: tuple[int, int]) -> float:
    rows = sum(position // kernel[1] for position in positions) / len(positions) - (kernel[0] - 1) / 2
    columns = sum(position % kernel[1] for position in positions) / len(positions) - (kernel[1] - 1) / 2
    return math.sqrt(rows * rows + columns * columns)


@settings(deadline=None)
@given(kernel=st.sampled_from(KERNELS), count=st.integers(1, 20), data=st.data())
def test_positions_are_used_evenly(kernel: tuple[int, int], count: int, data: st.DataObject) -> None:
    area = math.prod(kernel)
    n = data.draw(st.integers(1, area))
    table = balanced_table(count, kernel, data.draw(st.sampled_from([None, n])))
    assert len(table) == count
    assert all(sorted(variant) == list(range(area)) for variant in table)
    uses = Counter(position for variant in table for position in variant[:n])
    assert len(uses) == min(area, n * count)
    assert max(uses.values()) - min(uses[position] for position in range(area)) <= 1


@settings(deadline=None)
@given(kernel=st.sampled_from(KERNELS), count=st.integers(1, 20), data=st.data())
def test_tables_hardly_lean(kernel: tuple[int, int], count: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, math.prod(kernel)))
    positions = [position for variant in balanced_table(count, kernel, n) for position in variant[:n]]
    # Without a centre an odd number cannot balance: half a pixel in each even direction remains, of all of them.
    rest = math.hypot(*(0.0 if size % 2 else 0.5 for size in kernel)) if len(positions) % 2 else 0.0
    bound = 0.25 if kernel[0] % 2 == 1 and kernel[1] % 2 == 1 else rest / len(positions)
    assert mean_offset(positions, kernel) <= bound + 1e-9


FEW_CHOICES = [
    (kernel, n, count)
    for kernel in [(3, 3), (5, 5), (3, 5), (1, 5)]
    for n in range(1, math.prod(kernel) + 1)
    for count in range(1, 10)
    if n * count < math.prod(kernel) and math.comb(math.prod(kernel) - 1, n * count - 1) <= 3_100
]


@pytest.mark.parametrize(("kernel", "n", "count"), FEW_CHOICES)
def test_no_choice_leans_less(kernel: tuple[int, int], n: int, count: int) -> None:
    """By brute force over all choices of as many positions, with the centre unless there are two."""
    centre, used = math.prod(kernel) // 2, n * count
    found = {position for variant in balanced_table(count, kernel, n) for position in variant[:n]}
    assert (centre in found) == (used != 2)
    always = [centre] if used != 2 else []
    others = [position for position in range(math.prod(kernel)) if position != centre]
    rivals = itertools.combinations(others, used - len(always))
    best = min(mean_offset([*always, *rival], kernel) for rival in rivals)
    assert mean_offset(sorted(found), kernel) == pytest.approx(best)


def test_the_truncated_published_tables_that_drift_are_not_used() -> None:
    pairs = {position for variant in balanced_table(4, (3, 3), 2) for position in variant[:2]}
    assert any(position // 3 == 2 for position in pairs)  # the bottom row
    assert 4 in {variant[0] for variant in balanced_table(4, (3, 3), 1)}  # the centre


@settings(deadline=None)
@given(kernel=st.sampled_from(KERNELS), positions=st.lists(st.integers(0, 48), min_size=1, max_size=30))
def test_drift_is_the_length_of_the_mean_offset(kernel: tuple[int, int], positions: list[int]) -> None:
    positions = [position % math.prod(kernel) for position in positions]
    table = tuple((position,) for position in positions)
    assert drift(table, kernel) == pytest.approx(mean_offset(positions, kernel), abs=1e-12)
    assert drift((tuple(positions),), kernel) == pytest.approx(mean_offset(positions, kernel), abs=1e-12)


def test_tables_never_change() -> None:
    """A saved model holds the name of its table, not the table: another one would scatter its weights elsewhere."""
    tables = [
        [balanced_table(count, kernel, n) for n in (None, 1, 2, min(4, math.prod(kernel)))]
        for kernel in ((3, 3), (5, 5), (3, 5), (2, 2))
        for count in (1, 2, 3, 4, 7, 8, 15, 16)
    ]
    assert hashlib.sha256(json.dumps(tables).encode()).hexdigest()[:16] == "0b98e843db96db95"
    assert [variant[:2] for variant in balanced_table(4, (3, 3), 2)] == [(3, 6), (4, 2), (8, 7), (5, 0)]
