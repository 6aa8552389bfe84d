"""The periodic families against the rule of the papers, written again with loops, and their published tables."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from precut.supports import FAMILIES, Periodic, parse

# The authors' variants (row-major positions in a 3x3 kernel).
CORNERS = [(0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8)]
PAIRS = [(0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8)]
SINGLES = [(position,) for position in range(9)]
VARIANTS = {4: CORNERS, 2: PAIRS, 1: SINGLES}

PUBLISHED = [(n, len(VARIANTS[n]), False) for n in (4, 2, 1)] + [(n, P, True) for n in (4, 2, 1) for P in (8, 16)]


def published_pattern(n: int, period: int, boosted: bool) -> list[tuple[int, ...]]:
    """Residues 0 ... period - 1: the variants cycle from residue 1; residue 0 is full, or takes the last variant."""
    variants = VARIANTS[n]
    pattern: list[tuple[int, ...]] = [tuple(range(9)) if boosted else variants[-1]]
    while len(pattern) < period:
        pattern.append(variants[(len(pattern) - 1) % len(variants)])
    return pattern


def mask_by_loops(
    shape: tuple[int, ...], pattern: list[tuple[int, ...]], phase: int = 1, align: int = 1
) -> torch.Tensor:
    out, channels, _, kw = shape
    mask = torch.zeros(shape, dtype=torch.bool)
    for o in range(out):
        for i in range(channels):
            for position in pattern[(o // align + i + phase) % len(pattern)]:
                mask[o, i, position // kw, position % kw] = True
    return mask


@pytest.mark.parametrize(("n", "period", "boosted"), PUBLISHED)
@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (19, 21, 3, 3), (3, 2, 3, 3)])
def test_published_families_follow_the_papers_rule(n: int, period: int, boosted: bool, shape: tuple[int, ...]) -> None:
    maker = Periodic(n, period, boosted)
    assert list(maker.pattern()) == published_pattern(n, period, boosted)
    assert torch.equal(maker.mask(shape), mask_by_loops(shape, published_pattern(n, period, boosted)))


def test_the_full_kernel_is_residue_0() -> None:
    mask = Periodic(4, 8, full_kernel=True).mask((8, 8, 3, 3))
    full = [(o, i) for o in range(8) for i in range(8) if mask[o, i].all()]
    assert full == [(o, (7 - o) % 8) for o in range(8)]


@pytest.mark.parametrize(
    ("name", "uses"),
    [
        ("PSD4_P8", (3, 5, 3, 5, 8, 4, 3, 4, 2)),
        ("PSD4_P16", (5, 9, 5, 9, 16, 8, 5, 8, 4)),
        ("PSD2_P8", (3, 4, 2, 2, 3, 2, 2, 3, 2)),
    ],
)
def test_position_use_is_the_published_one(name: str, uses: tuple[int, ...]) -> None:
    maker = parse(name)
    assert isinstance(maker, Periodic)
    counted = Counter(position for kernel in maker.pattern() for position in kernel)
    assert tuple(counted[position] for position in range(9)) == uses


@pytest.mark.parametrize(
    ("name", "numerator", "denominator"),
    [
        ("PS4_P4", 4, 9),
        ("PS2_P6", 2, 9),
        ("PS1_P9", 1, 9),
        ("PSD4_P8", 37, 72),
        ("PSD4_P16", 69, 144),
        ("PSD2_P8", 23, 72),
        ("PSD2_P16", 39, 144),
        ("PSD1_P8", 16, 72),
        ("PSD1_P16", 24, 144),
        ("pSC4", 4, 9),
        ("pSC2", 2, 9),
        ("pSC1", 1, 9),
        ("dense", 1, 1),
    ],
)
def test_densities_of_the_families(name: str, numerator: int, denominator: int) -> None:
    channels = 144  # a multiple of every period
    support = parse(name).support((6, channels, 3, 3))
    assert support.nnz * denominator == numerator * support.numel
    assert name in FAMILIES


@pytest.mark.parametrize(("n", "period", "boosted"), PUBLISHED)
def test_params_by_the_formula(n: int, period: int, boosted: bool) -> None:
    out, channels = 20, 3 * period
    each_period = (period - 1) * n + (9 if boosted else n)
    support = Periodic(n, period, boosted).support((out, channels, 3, 3))
    assert support.nnz == out * (channels // period) * each_period
    assert support.per_filter == 3 * each_period


@settings(deadline=None)
@given(
    n=st.integers(1, 9),
    period=st.integers(2, 20),
    boosted=st.booleans(),
    phase=st.integers(-20, 20),
    align=st.sampled_from([None, 1, 2, 16]),
    nested=st.booleans(),
    kernel=st.sampled_from([(3, 3), (5, 5), (3, 5), (4, 4)]),
)
@pytest.mark.filterwarnings("ignore:the variants of:UserWarning")
def test_any_periodic_support_follows_the_rule(
    n: int, period: int, boosted: bool, phase: int, align: int | None, nested: bool, kernel: tuple[int, int]
) -> None:
    maker = Periodic(n, period, boosted, phase=phase, align=align, nested=nested)
    shape = (35, 23, *kernel)
    pattern = list(maker.pattern(kernel))
    assert len(pattern) == period
    assert [len(set(positions)) for positions in pattern[1:]] == [n] * (period - 1)
    assert len(set(pattern[0])) == (math.prod(kernel) if boosted else n)
    assert torch.equal(maker.mask(shape), mask_by_loops(shape, pattern, phase, align or 1))


def test_phase_shifts_by_filters() -> None:
    base, shifted = (Periodic(1, 9, phase=phase).mask((27, 9, 3, 3)) for phase in (1, 4))
    assert torch.equal(shifted[:24], base[3:])
    assert torch.equal(Periodic(1, 9, phase=10).mask((27, 9, 3, 3)), base)


def test_align_repeats_each_phase_and_shows_an_input_fewer_variants() -> None:
    plain, aligned = Periodic(1, 8, True).mask((32, 8, 3, 3)), Periodic(1, 8, True, align=16).mask((32, 8, 3, 3))
    for o in range(32):
        assert torch.equal(aligned[o], plain[o // 16])
    met = {tuple(kernel.flatten().tolist()) for kernel in aligned[:, 0]}
    assert len(met) == 32 // 16  # of 8 residues


def test_groups_count_input_channels_within_the_group_and_outputs_over_all() -> None:
    maker = Periodic(2, 6)
    mask = maker.mask((12, 4, 3, 3), groups=3)
    assert torch.equal(mask, mask_by_loops((12, 4, 3, 3), published_pattern(2, 6, False)))
    depthwise = maker.mask((12, 1, 3, 3), groups=12)
    assert torch.equal(depthwise, mask_by_loops((12, 1, 3, 3), published_pattern(2, 6, False)))


@settings(deadline=None)
@given(
    n=st.integers(1, 8),
    more=st.integers(1, 8),
    period=st.integers(2, 17),
    boosted=st.booleans(),
    kernel=st.sampled_from([(3, 3), (5, 5), (2, 3)]),
)
@pytest.mark.filterwarnings("ignore:the variants of:UserWarning")
def test_nested_supports_lie_within_each_other(
    n: int, more: int, period: int, boosted: bool, kernel: tuple[int, int]
) -> None:
    assume(n + more <= math.prod(kernel))
    small, large = (Periodic(k, period, boosted, nested=True).mask((8, 8, *kernel)) for k in (n, n + more))
    assert bool((large | ~small).all())
    assert int(large.sum()) > int(small.sum())


def test_given_variants_count_by_their_first_kss_positions() -> None:
    variants = [[8, 0, 4], [1, 7, 2], [3, 5, 6]]
    pattern = [(3, 5), (8, 0), (1, 7), (3, 5), (8, 0)]
    maker = Periodic(2, 5, variants=variants)
    assert list(maker.pattern()) == pattern
    assert torch.equal(maker.mask((7, 10, 3, 3)), mask_by_loops((7, 10, 3, 3), pattern))
    assert str(maker) == "PS2_P5_custom"


def test_variants_that_lean_are_warned_of() -> None:
    top_row = Periodic(2, 2, variants=[[0, 1], [1, 2]])  # one pixel up, in the mean
    with pytest.warns(UserWarning, match="lean 1.00 pixels") as warned:
        top_row.support((4, 4, 3, 3))
    assert [str(warning.message) for warning in warned] == [
        "the variants of PS2_P2_custom lean 1.00 pixels off the centre of a 3x3 kernel (more than 0.25): every layer "
        "shifts its image by that much; choose positions that balance"
    ]


def test_our_own_tables_that_must_lean_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="lean 0.71 pixels") as warned:
        Periodic(1, 1).support((4, 4, 2, 2))  # one corner of a kernel without a centre: (-1/2, -1/2)
    assert [str(warning.message) for warning in warned] == [
        "the variants of PS1_P1 lean 0.71 pixels off the centre of a 2x2 kernel (more than 0.25): every layer shifts "
        "its image by that much; choose another period or kss"
    ]


def test_loading_a_support_does_not_warn_again() -> None:
    with pytest.warns(UserWarning, match="lean 0.71 pixels"):
        support = Periodic(1, 1).support((4, 4, 2, 2))
    assert type(support).from_key(support.key).nnz == support.nnz == 16  # warnings are errors here


@pytest.mark.parametrize("name", FAMILIES)
def test_no_published_family_warns(name: str) -> None:
    parse(name).support((16, 16, 3, 3))
