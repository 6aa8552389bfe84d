"""The baselines: N:M, centres alone or between full kernels, and dense."""

from __future__ import annotations

import pytest
import torch

from precut.supports import NM, CenterOnly, Dense


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 4), (1, 4), (4, 4), (2, 8), (1, 16), (3, 5)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3), ()])
def test_nm_keeps_n_of_every_m_at_each_position(n: int, m: int, kernel: tuple[int, ...]) -> None:
    shape = (9, 3 * m, *kernel)
    mask = NM(n, m).mask(shape).reshape(9, 3 * m, -1)
    for o in range(9):
        for position in range(mask.shape[2]):
            for run in range(3):
                kept = [mask[o, run * m + i, position].item() for i in range(m)]
                assert sum(kept) == n
                assert kept == [(run * m + i + o + position) % m < n for i in range(m)]


def test_nm_shows_every_output_every_input() -> None:
    assert NM(2, 4).mask((8, 16, 3, 3)).flatten(2).any(2).all()


def test_nm_counts_within_the_group() -> None:
    mask = NM(2, 4).mask((8, 4, 3, 3), groups=2)
    assert (mask.sum(1) == 2).all()


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7, 7), (3, 5), (1, 1)])
def test_center_alone(kernel: tuple[int, int]) -> None:
    mask = CenterOnly().mask((6, 5, *kernel))
    expected = torch.zeros(6, 5, *kernel, dtype=torch.bool)
    expected[:, :, kernel[0] // 2, kernel[1] // 2] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("period", [1, 2, 4, 5])
def test_hetconv_has_one_full_kernel_a_period_shifted_by_filter(period: int) -> None:
    mask = CenterOnly(period).mask((11, 10, 3, 3))
    for o in range(11):
        for i in range(10):
            kept = 9 if (o + i) % period == 0 else 1
            assert mask[o, i].sum() == kept
            assert mask[o, i, 1, 1]
    # HetConv's count: a share 1/P of full kernels, the others 1x1.
    full = CenterOnly(period).support((12, 4 * period, 3, 3))
    assert full.nnz == 12 * 4 * (9 + (period - 1))


def test_dense_is_everything() -> None:
    support = Dense().support((4, 3, 5, 5))
    assert support.mask().all()
    assert (support.nnz, support.density, support.per_filter) == (300, 1.0, 75)
