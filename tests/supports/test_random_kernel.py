"""Random kernels: exactly kss weights each, drawn uniformly, the same ones for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.supports import RandomKernel


@settings(deadline=None)
@given(
    kss=st.integers(1, 9),
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**64 - 1),
    kernel=st.sampled_from([(3, 3), (5, 5), (3, 5)]),
)
def test_every_kernel_keeps_exactly_kss(kss: int, seed: int, stream: int, kernel: tuple[int, int]) -> None:
    maker = RandomKernel(kss, seed, stream)
    support = maker.support((7, 5, *kernel))
    assert set(support.mask().flatten(2).sum(2).flatten().tolist()) == {kss}
    assert support.per_filter == 5 * kss
    assert torch.equal(support.mask(), RandomKernel(kss, seed, stream).mask((7, 5, *kernel)))


def test_the_draw_never_changes() -> None:
    """A saved model holds the seed, not the draw."""
    assert RandomKernel(2, seed=7).support((4, 3, 3, 3)).indices().tolist() == [
        *(4, 8, 12, 16, 23, 25, 29, 34, 37, 38, 46, 48),
        *(55, 60, 66, 71, 72, 76, 81, 87, 96, 97, 103, 106),
    ]
    bits = np.packbits(RandomKernel(4, seed=1, stream=3).mask((64, 32, 3, 3)).numpy())
    assert hashlib.sha256(bits.tobytes()).hexdigest()[:16] == "844de12a99e73fa9"


def test_seeds_and_streams_differ() -> None:
    masks = [RandomKernel(4, seed, stream).mask((16, 16, 3, 3)) for seed in (0, 1, 2) for stream in (0, 1, 2)]
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            agreement = (mask == other).double().mean().item()
            assert agreement == pytest.approx((4 / 9) ** 2 + (5 / 9) ** 2, abs=0.05)  # of independent draws


def test_for_layer_numbers_the_streams() -> None:
    assert RandomKernel(4, seed=3).for_layer(5) == RandomKernel(4, seed=3, stream=5)


@pytest.mark.parametrize("kss", [1, 2, 4])
def test_positions_are_uniform(kss: int) -> None:
    """Each position, and each pair of positions, about as often as chance has it (5 standard deviations)."""
    kernels = RandomKernel(kss, seed=11).mask((128, 128, 3, 3)).flatten(2).flatten(0, 1).double()
    n = len(kernels)
    single = kss / 9
    spread = 5 * (single * (1 - single) / n) ** 0.5
    assert kernels.mean(0).sub(single).abs().max() < spread
    together = kernels.T @ kernels / n
    pair = kss * (kss - 1) / (9 * 8)
    off_diagonal = together[~torch.eye(9, dtype=torch.bool)]
    assert off_diagonal.sub(pair).abs().max() <= 5 * (pair * (1 - pair) / n) ** 0.5


def test_the_centre_is_not_promised() -> None:
    assert not RandomKernel(4).mask((16, 16, 3, 3))[:, :, 1, 1].all()
