"""Names of supports, as the command line and the tables write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precut.supports import FAMILIES, NM, CenterOnly, Dense, Periodic, RandomKernel, SupportMaker, parse


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("PS4_P4", Periodic(4, 4)),
        ("PS2_P6", Periodic(2, 6)),
        ("PS1_P9", Periodic(1, 9)),
        ("PSD4_P8", Periodic(4, 8, full_kernel=True)),
        ("PSD1_P16", Periodic(1, 16, full_kernel=True)),
        ("PS3_P5", Periodic(3, 5)),
        ("PSD1_P16_A16", Periodic(1, 16, full_kernel=True, align=16)),
        ("PS2_P4_nested", Periodic(2, 4, nested=True)),
        ("PS2_P4_phase0", Periodic(2, 4, phase=0)),
        ("PS2_P4_phase-3", Periodic(2, 4, phase=-3)),
        ("PSD2_P4_A8_phase3_nested", Periodic(2, 4, True, phase=3, align=8, nested=True)),
        ("pSC4", RandomKernel(4)),
        ("pSC2_seed17", RandomKernel(2, seed=17)),
        ("2:4", NM(2, 4)),
        ("1:16", NM(1, 16)),
        ("center", CenterOnly()),
        ("center_P4", CenterOnly(4)),
        ("dense", Dense()),
    ],
)
def test_every_form(name: str, maker: SupportMaker) -> None:
    assert parse(name) == maker
    assert str(maker) == name
    assert parse(name.upper()) == parse(name.lower()) == maker


@given(
    kss=st.integers(1, 49),
    period=st.integers(2, 256),
    full=st.booleans(),
    phase=st.integers(-256, 256),
    align=st.one_of(st.none(), st.integers(1, 64)),
    nested=st.booleans(),
)
def test_periodic_names_round_trip(
    kss: int, period: int, full: bool, phase: int, align: int | None, nested: bool
) -> None:
    maker = Periodic(kss, period, full, phase=phase, align=align, nested=nested)
    assert parse(str(maker)) == maker


def test_a_maker_stands_for_itself() -> None:
    maker = RandomKernel(4, stream=3)
    assert parse(maker) is maker


def test_the_families_are_the_papers() -> None:
    assert len(FAMILIES) == len(set(FAMILIES)) == 13
    assert [str(parse(name)) for name in FAMILIES] == list(FAMILIES)
