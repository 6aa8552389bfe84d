"""NN-Mass in closed form against sums over layers, published values, and its inverse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precut import PrecutError
from precut.topology import (
    basic_block_mass,
    bottleneck_mass,
    cell_degree,
    cell_density,
    cell_links,
    cell_mass,
    gaussian_isometry,
    inverted_residual_mass,
)
from topology.facts import REFERENCE

GRID = [(w, d, t) for w in (1, 2, 3, 8, 13, 32) for d in (3, 4, 5, 8, 13, 21) for t in range(0, 70, 4)]


def summed(width: int, depth: int, links: float) -> tuple[float, int]:
    """(linked, possible) channels by the definition, layer by layer."""
    linked, possible = 0.0, 0
    for layer in range(2, depth):
        candidates = width * (layer - 1)
        linked += min(candidates, links)
        possible += candidates
    return linked, possible


def test_closed_form_is_the_sum_over_layers() -> None:
    assert len(GRID) > 600
    for width, depth, links in GRID:
        linked, possible = summed(width, depth, links)
        assert cell_density(width, depth, links) == pytest.approx(linked / possible, rel=1e-12)
        assert cell_mass(width, depth, links) == pytest.approx(width * depth * linked / possible, rel=1e-12)
        assert cell_degree(width, depth, links) == pytest.approx(width + linked / depth, rel=1e-12)


@pytest.mark.parametrize("row", REFERENCE["mass_grid"], ids=lambda row: f"{row['w']}-{row['d']}-{row['tc']}")
def test_published_values(row: dict[str, float]) -> None:
    width, depth, links = int(row["w"]), int(row["d"]), row["tc"]
    assert cell_density(width, depth, links) == pytest.approx(row["rho"], abs=1e-9)
    assert cell_mass(width, depth, links) == pytest.approx(row["nn_mass"], abs=1e-9)
    assert cell_degree(width, depth, links) - width == pytest.approx(row["k_long"], abs=1e-9)


def test_few_links_make_mass_blind_to_width() -> None:
    assert cell_mass(8, 6, 5) == cell_mass(800, 6, 5) == 2 * 5 * 6 / 5
    assert cell_degree(8, 6, 5) != cell_degree(800, 6, 5)


@given(width=st.integers(1, 200), depth=st.integers(3, 60), share=st.floats(0, 1))
def test_inverse_recovers_the_links(width: int, depth: int, share: float) -> None:
    links = share * width * (depth - 2)
    mass = cell_mass(width, depth, links)
    assert cell_links(mass, width, depth) == pytest.approx(links, rel=1e-9, abs=1e-9)


@given(width=st.integers(1, 60), depth=st.integers(3, 40), links=st.integers(0, 3000))
def test_whole_links_survive_the_inverse(width: int, depth: int, links: int) -> None:
    most = width * (depth - 2)
    assert round(cell_links(cell_mass(width, depth, links), width, depth)) == min(links, most)


@given(width=st.integers(1, 60), depth=st.integers(3, 40), links=st.floats(0, 4000))
def test_bounds_and_growth(width: int, depth: int, links: float) -> None:
    density = cell_density(width, depth, links)
    assert 0 <= density <= 1 + 1e-12
    assert cell_density(width, depth, links + 1) >= density - 1e-12
    assert cell_mass(width, depth, width * (depth - 2)) == pytest.approx(width * depth)


def test_blocks_with_additions() -> None:
    assert basic_block_mass(64, 128) == 192
    assert bottleneck_mass(256, 64) == pytest.approx((256 + 128) * 256 / 576)
    assert inverted_residual_mass(24, 6) == pytest.approx(1.625 * 24)
    assert inverted_residual_mass(16, 1) == 16


@pytest.mark.parametrize("row", REFERENCE["gaussian"][::3], ids=lambda row: f"{row['w']}-{row['m']}")
def test_gaussian_jacobians(row: dict[str, float]) -> None:
    mean, low, high = gaussian_isometry(int(row["w"]), row["m"], draws=400 if row["w"] < 50 else 40)
    assert mean == pytest.approx(row["mean_sigma_mc"], rel=0.02)
    assert (low, high) == (pytest.approx(row["lo"], abs=1e-9), pytest.approx(row["hi"], abs=1e-9))


WRONG = {
    "depth": (lambda: cell_density(8, 2, 1), "a cell of depth=2 has no layer that a link could skip, so no density"),
    "depth 0": (lambda: cell_links(1.0, 8, 0), "depth must be at least 3"),
    "links": (lambda: cell_mass(8, 4, -1), "links must be a finite number from 0 up; got -1"),
    "width": (lambda: cell_mass(0, 4, 1), "width must be a whole number of at least 1; got 0"),
    "infinite": (lambda: cell_mass(8, 4, math.inf), "links must be a finite number from 0 up; got inf"),
    "mass": (lambda: cell_links(33.0, 8, 4), "a mass of at most 32 (all links); got mass=33"),
    "negative mass": (lambda: cell_links(-1.0, 8, 4), "mass must be a finite number from 0 up; got -1.0"),
    "block": (lambda: basic_block_mass(0, 3), "channels must be a whole number of at least 1; got 0"),
    "gaussian": (lambda: gaussian_isometry(8, -2), "mass must be a finite number from 0 up; got -2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(PrecutError) as raised:
        call()
    assert message in str(raised.value)
