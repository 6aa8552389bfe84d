"""Structured pruning of whole models: real layers of that structure, the budget, and what the engine makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import precut
from precut import runtime
from precut.errors import PrecutError
from precut.layers import SparseConv2d, SparseLayer
from precut.measure import summary
from precut.pruning import prune
from precut.supports import ClassTable, Periodic, Unstructured

X = torch.zeros(1, 3, 16, 16)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def pruned(structure: Any, score: str = "magnitude", density: float | None = 0.3, **options: Any) -> Any:
    given = {"ignored_layers": ["0", "9"], **options}
    return prune(network(), score, density, X, structure=structure, **given)


@pytest.mark.parametrize("structure", ["class:4", "class:4x2", "class:2_A16", "block:16", "kernel", "weight"])
@pytest.mark.parametrize("score", ["magnitude", "random", "synflow"])
def test_the_end_is_a_network_of_that_structure(structure: str, score: str) -> None:
    model, report = pruned(structure, score, rounds=3)
    budget = -(-3 * (16 * 32 + 32 * 32) * 9 // 10)
    kept = sum(report.kept.values())
    cost = {"class:4": 64 * 9, "class:4x2": 256, "class:2_A16": 256, "block:16": 16, "kernel": 9, "weight": 1}[
        structure
    ]
    assert budget - cost < kept <= budget
    for name in ("3", "6"):
        layer = model.get_submodule(name)
        assert isinstance(layer, SparseConv2d)
        assert isinstance(layer.support.maker, Unstructured if structure in ("kernel", "weight") else ClassTable)
        assert layer.weight.numel() == report.kept[name]
        dense = network().get_submodule(name).weight
        assert torch.equal(layer.dense_weight(), dense * layer.support.mask())  # type: ignore[operator]
    assert isinstance(model[0], nn.Conv2d)


@pytest.mark.parametrize("structure", ["class:4", "class:2_A16", "block:16", "PSD4_P8", "2:4", "kernel"])
def test_the_engine_runs_it(structure: str) -> None:
    model, _ = pruned(structure, density=None if structure in ("PSD4_P8", "2:4") else 0.3)
    model.eval()
    x = torch.randn(2, 3, 16, 16)
    fast = precut.compile(model, example_inputs=x, threads=1)
    torch.testing.assert_close(torch.as_tensor(fast(x)), model(x), rtol=1e-4, atol=1e-5)
    if runtime.available() and structure != "kernel":
        rows = {row["name"]: row for row in fast.explain(rounds=0).rows}
        for name in ("3", "6"):  # a table of classes, not a mask: dense blocks
            assert str(rows[name]["support"]).startswith("classes ")
            assert "unstructured" not in str(rows[name]["kernel"])


def test_patterns_that_fix_their_density() -> None:
    model, report = pruned("PSD4_P8", density=None)
    assert isinstance(model[3].support.maker, Periodic)
    assert report.kept == {"3": (9 + 7 * 4) * 16 * 32 // 8, "6": (9 + 7 * 4) * 32 * 32 // 8}
    assert model[3].support.maker != model[6].support.maker
    with pytest.raises(PrecutError) as caught:
        pruned("PSD4_P8")
    assert str(caught.value) == "structure 'PSD4_P8' fixes how many weights there are; leave the density out"


@pytest.mark.parametrize("structure", ["class:4", None])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_a_budget_of_multiply_adds(structure: Any, allocation: str) -> None:
    model, report = pruned(structure, "random", budget="macs", allocation=allocation)
    dense, now = (sum(row.macs for row in summary(m, X).layers if row.name in ("3", "6")) for m in (network(), model))
    biggest = 64 * (16 * 32 * 9) // 16 if structure else 64  # one decision of the dearest layer
    assert 0.3 * dense - 2 * biggest < now <= -(-3 * dense // 10)
    assert f"{now:,} of {dense:,} in prunable layers" in " ".join(report.notes)


def test_dear_weights_go_first() -> None:
    """Layer 0 has 256 output pixels, layer 3 has 64: of equal scores, those of layer 3 are kept."""
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[3].weight.fill_(1.0)
        model[6].weight.fill_(0.0)
    cheap = 16 * 32 * 9 * 64
    total = 3 * 16 * 9 * 256 + cheap + 32 * 32 * 9 * 64
    _, report = prune(model, "magnitude", cheap / total, X, ignored_layers=["9"], budget="macs")
    assert report.kept == {"0": 0, "3": 16 * 32 * 9, "6": 0}


def test_wrong_budgets() -> None:
    with pytest.raises(PrecutError) as caught:
        pruned("class:4", budget="mac")
    assert str(caught.value) == "unknown budget 'mac': did you mean 'macs'?"

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(PrecutError) as caught:
        prune(Idle(), "random", 0.5, X, budget="macs")
    assert str(caught.value) == (
        "budget='macs' cannot price layer 'idle': 0 multiply-adds for 135 weights; keep it dense with "
        "ignored_layers=['idle']"
    )


def test_it_trains_and_moves(tmp_path: Any) -> None:
    model, _ = pruned("class:4", "random", rounds=1)
    mover = precut.training.SupportMover(model, steps=4, every=1, end=1.0)
    budgets = {name: layer.support.nnz for name, layer in model.named_modules() if isinstance(layer, SparseLayer)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        mover.start_step()
        optimizer.zero_grad()
        model(torch.randn(4, 3, 16, 16)).square().mean().backward()
        optimizer.step()
        assert mover.end_step()
    assert budgets == {name: model.get_submodule(name).support.nnz for name in budgets}
    precut.save(model, tmp_path / "m.safetensors")
    again = precut.load(tmp_path / "m.safetensors", network())
    model.eval()
    assert torch.equal(again(X), model(X))
    x = torch.randn(1, 3, 16, 16)
    fast = precut.compile(model, example_inputs=x, threads=1)
    torch.testing.assert_close(torch.as_tensor(fast(x)), model(x), rtol=1e-4, atol=1e-5)
