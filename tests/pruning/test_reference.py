"""Masks against those of the published code, and against the published algorithm written plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import precut
from precut.pruning import as_masks
from pruning.plain import ReferenceNet, plain_masks, reference_batch

MASKS = np.load(Path(__file__).parent / "data" / "official_masks.npz")
NAMES = {"mag": "magnitude"}
SCHEDULES = {"exp": "exponential", "lin": "linear"}
# Weights kept by layer, as the authors' code counted them.
COUNTS = {
    "init__mag__it1__exp__global__eval__rho3": [50, 2, 0, 0, 9],
    "init__snip__it1__exp__global__eval__rho3": [3, 4, 0, 13, 41],
    "init__grasp__it1__exp__global__eval__rho3": [24, 6, 0, 0, 31],
    "init__synflow__it1__exp__global__eval__rho3": [48, 0, 0, 0, 13],
    "init__synflow__it100__exp__global__eval__rho3": [16, 10, 10, 13, 12],
}


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("key", list(MASKS))
def test_masks_are_those_of_the_published_code(key: str, official: bool) -> None:
    """Bit for bit. Nothing ties here, so the exact rule keeps the same weights."""
    _, pruner, rounds, schedule, _, _, rho = key.split("__")
    model = ReferenceNet() if official else ReferenceNet().double()
    pruned, report = precut.prune(
        model,
        NAMES.get(pruner, pruner),
        10.0 ** -int(rho.removeprefix("rho")),
        torch.zeros(1, 3, 32, 32),
        rounds=int(rounds.removeprefix("it")),
        schedule=SCHEDULES[schedule],
        data=[reference_batch()],
        official=official,
    )
    expected = np.unpackbits(MASKS[key])[: report.size].astype(bool)
    assert np.array_equal(torch.cat([mask.flatten() for mask in as_masks(pruned).values()]).numpy(), expected)
    assert list(report.kept.values()) == COUNTS.get(key, list(report.kept.values()))
    assert report.k == expected.sum()


def test_the_plain_algorithm_gives_the_published_masks() -> None:
    """So that it may stand for the published code below."""
    for key in ("init__snip__it1__exp__global__eval__rho1", "init__synflow__it100__lin__global__eval__rho3"):
        _, pruner, rounds, schedule, _, _, rho = key.split("__")
        found = plain_masks(
            ReferenceNet(),
            NAMES.get(pruner, pruner),
            10.0 ** -int(rho[3:]),
            (3, 32, 32),
            int(rounds[2:]),
            SCHEDULES[schedule],
            batches=[reference_batch()],
        )
        flat = torch.cat([mask.flatten() for mask in found.values()]).numpy()
        assert np.array_equal(flat, np.unpackbits(MASKS[key])[: len(flat)].astype(bool))


class Skipping(nn.Module):
    """A residual network with a strided shortcut, grouped and depthwise layers."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1, groups=2), nn.BatchNorm2d(16)
        )
        self.shortcut = nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 5)
        if trained:
            for norm in (self.norm, self.body[3]):
                nn.init.normal_(norm.running_mean, std=0.2)
                nn.init.uniform_(norm.running_var, 0.5, 2)
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias, std=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.body(x) + self.shortcut(x))
        return self.head(nn.functional.adaptive_max_pool2d(x, 1).flatten(1))


CASES = [
    (pruner, density, rounds, schedule, scope, trained)
    for pruner in ("synflow", "magnitude", "snip", "grasp")
    for density, rounds in ((0.5, 1), (0.2, 1), (0.3, 7), (0.05, 20))
    for schedule in ("exponential", "linear")
    for scope in ("global", "uniform")
    for trained in (False, True)
    if rounds == 1 or pruner == "synflow"
]


@pytest.mark.parametrize(("pruner", "density", "rounds", "schedule", "scope", "trained"), CASES)
def test_official_follows_the_plain_algorithm_elsewhere(
    pruner: str, density: float, rounds: int, schedule: str, scope: str, trained: bool
) -> None:
    """Other networks, densities and scopes, and statistics as after training, where the published treatment of means
    and biases shows."""
    torch.manual_seed(len(pruner) + rounds)
    model = Skipping(trained)
    batches = [(torch.randn(6, 3, 8, 8), torch.arange(6) % 5), (torch.randn(4, 3, 8, 8), torch.arange(4))]
    expected = plain_masks(model, pruner, density, (3, 8, 8), rounds, schedule, scope, batches)
    _, report = precut.prune(
        model,
        pruner,
        density,
        torch.zeros(2, 3, 8, 8),
        rounds=rounds,
        schedule=schedule,
        allocation=scope,
        data=batches,
        official=True,
    )
    found = report.masks()
    assert {name: int((found[name] != mask).sum()) for name, mask in expected.items()} == dict.fromkeys(expected, 0)


def test_official_drops_all_that_ties_and_exact_keeps_k() -> None:
    """Four equal scores, half to keep: the published rule keeps none (a defect that its users met), the exact one two."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    nn.init.ones_(model[0].weight)
    x = torch.zeros(1, 2)
    assert plain_masks(model, "magnitude", 0.5, (2,))["0"].sum() == 0
    _, report = precut.prune(model, "magnitude", 0.5, x, official=True)
    assert report.k == 0
    assert "ties at the threshold all go" in str(report)
    _, report = precut.prune(model, "magnitude", 0.5, x)
    assert report.masks()["0"].tolist() == [[True, True], [False, False]]
