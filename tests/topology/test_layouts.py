"""NN-Mass where channels are not dimension 1 of images: the same network over lines, tokens and channels-last maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precut
from precut import PrecutError
from precut.topology import isometry, nn_mass


class Residual(nn.Module):
    """A stem, one residual block of two layers, a head."""

    def __init__(self, make: Any, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head, self.axes = (
            make(3, 16),
            make(16, 16),
            make(16, 16),
            nn.Linear(16, 5),
            axes,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        return self.head(x.mean(self.axes) if self.axes else x)


class Dense(nn.Module):
    """Layers that read all before them."""

    def __init__(self, make: Any, dim: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.dim = make(3, 8), make(11, 8), make(19, 8), dim

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = self.b(torch.cat([x, a], self.dim)).relu()
        return self.c(torch.cat([x, a, b], self.dim))


class ChannelsLast(nn.Module):
    """Convolutions, and linear layers over permuted maps between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = (
            nn.Conv2d(3, 16, 1),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu().permute(0, 2, 3, 1)
        x = (x + self.b(self.a(x).relu())).relu()
        return self.head(x.permute(0, 3, 1, 2).mean((2, 3)))


def lines(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv1d(inputs, outputs, 3, padding=1)


def maps(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.mark.parametrize("size", [5, 16, 50])
def test_a_residual_block_in_every_layout(size):
    wanted = nn_mass(Residual(maps, (2, 3)), torch.zeros(1, 3, 6, 6))
    assert float(wanted) == 32.0  # the block's channels and what it adds
    for model, shape in (
        (Residual(lines, (2,)), (1, 3, size)),
        (Residual(nn.Linear, (1,)), (1, size, 3)),
        (Residual(nn.Linear, (1, 2)), (1, size, size, 3)),
        (Residual(nn.Linear, ()), (1, 3)),
        (ChannelsLast(), (1, 3, size, size)),
    ):
        found = nn_mass(model, torch.zeros(shape))
        assert (float(found), found.degree, found.density) == (float(wanted), wanted.degree, wanted.density), shape


@pytest.mark.parametrize("size", [5, 19, 50])
def test_concatenation_in_every_layout(size):
    wanted = nn_mass(Dense(maps, 1), torch.zeros(1, 3, 6, 6))
    for model, shape in (
        (Dense(lines, 1), (1, 3, size)),
        (Dense(nn.Linear, 2), (1, size, 3)),
        (Dense(nn.Linear, -1), (1, size, size, 3)),
    ):
        found = nn_mass(model, torch.zeros(shape))
        assert [cell.widths for cell in found.cells] == [cell.widths for cell in wanted.cells] == [(3, 8, 8)]
        assert (float(found), found.degree) == (float(wanted), wanted.degree)


def test_norms_of_the_batch_have_no_isometry():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()).eval()
    with pytest.raises(PrecutError, match="it ties the batch's images together"):
        isometry(model, torch.randn(2, 3, 8, 8))
    assert precut.topology.isometry(model[:1], torch.randn(2, 3, 8, 8)).mean > 0
