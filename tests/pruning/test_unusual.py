"""Networks of unusual form, each of which once came out wrong: live paths, removal of what is dead, shared parameters,
layers that run on parameters, floors beside budgets, and scores that use another score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut import PrecutError, pruning, training
from precut.pruning import Network
from precut.training._muon import Muon

X = torch.zeros(1, 3, 8, 8)


class Branches(nn.Module):
    """Three branches that a function joins."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.join = join
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.c, self.o = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.join(self.a(x), self.b(x)) + self.c(x)).mean((2, 3)))


class Chain(nn.Module):
    """Linear layers with something in between; with ``dead``, three columns of ``b`` read nothing."""

    def __init__(self, between: Callable[[Tensor], Tensor], bias: bool = False) -> None:
        super().__init__()
        self.between = between
        self.a, self.b, self.c = nn.Linear(6, 8, bias=bias), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.between(self.a(x))).relu())


def _dead_inputs(network: Network) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.rand(layer.shape, generator=generator) for name, layer in network.layers.items()}
    made["b"][:, :3] = -1
    made["a"][4:6] = -1
    return made


def _difference(model: nn.Module, score: Any, density: float, x: Tensor) -> tuple[float, Any]:
    example = torch.zeros(1, *x.shape[1:])
    kept, _ = precut.prune(model, score, density, example)
    removed, report = precut.prune(model, score, density, example, remove_dead=True)
    with torch.no_grad():
        return float((kept.eval()(x) - removed.eval()(x)).abs().max()), report


@pytest.mark.parametrize("join", [torch.max, torch.min, torch.maximum])
def test_the_larger_of_two_branches(join):
    torch.manual_seed(0)
    difference, report = _difference(Branches(join), "magnitude", 0.5, torch.randn(4, 3, 8, 8))
    assert difference < 1e-6
    torch.manual_seed(0)
    same = Branches(torch.maximum)
    assert report.live == precut.prune(same, "magnitude", 0.5, X)[1].live
    assert report.live["b"] == report.kept["b"] > 0


@pytest.mark.parametrize(
    "between",
    [
        lambda h: F.normalize(h.relu(), dim=-1),
        lambda h: h.relu() / (h.relu().sum(-1, keepdim=True) + 1),
        lambda h: F.hardtanh(h, 0.5, 2.0),
        lambda h: h.relu() + h[:, 1:2],
        F.relu,
    ],
    ids=["normalize", "sum", "hardtanh", "one channel for all", "relu"],
)
@pytest.mark.parametrize("bias", [False, True])
def test_channels_that_count_without_weights_stay(between, bias):
    torch.manual_seed(0)
    model = Chain(between, bias)
    difference, _ = _difference(model, _dead_inputs, (136 - 36) / 136, torch.randn(5, 6))
    assert difference < 1e-6


def test_channels_that_nothing_reads_still_go():
    torch.manual_seed(0)
    _, report = _difference(Chain(F.relu), _dead_inputs, (136 - 36) / 136, torch.randn(5, 6))
    assert report.channels_removed >= 3


class Scaled(nn.Module):
    """A residual branch behind a scale that begins at zero (ReZero, SkipInit)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.o((h + self.alpha * self.b(h)).mean((2, 3)))


def test_a_trained_scale_of_zero_is_a_path():
    torch.manual_seed(0)
    _, report = precut.prune(Scaled(), "magnitude", 0.5, X, remove_dead=True)
    assert report.live["b"] == report.kept["b"] > 0
    assert report.dead_removed == 0
    _, report = precut.prune(Scaled(), "synflow", 0.5, X, rounds=2)
    assert any("multiplies everything by 0" in note for note in report.notes)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c.weight, self.c.bias = self.b.weight, self.b.bias
        self.f = nn.Linear(8, 10)
        self.f2 = nn.Linear(8, 10)
        self.f2.bias = self.f.bias

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(self.b(self.a(x).relu()).relu()).relu().mean((2, 3))
        return self.f(h) + self.f2(h)


@pytest.mark.parametrize("ignored", [[], ["f2"]])
def test_shared_biases_stay_shared(ignored):
    pruned, _ = precut.prune(Tied(), "random", 0.3, X, ignored_layers=ignored)
    assert pruned.b.weight is pruned.c.weight
    assert pruned.b.bias is pruned.c.bias
    assert pruned.f.bias is pruned.f2.bias


def test_masks_of_shared_weights_are_an_allocation():
    pruned, first = precut.prune(Tied(), "random", 0.3, X)
    _, second = precut.prune(Tied(), "magnitude", None, X, allocation=pruning.as_masks(pruned))
    assert second.kept == first.kept


@pytest.mark.parametrize(
    "options",
    [{"budget": "macs"}, {"structure": "block:16"}, {"official": True}, {"structure": "2:4", "density": None}, {}],
)
def test_progress_counts_the_weights_that_are_left(options):
    told: list[tuple[int, int, int]] = []
    score = "magnitude" if "official" in options else "synflow"
    options = {"density": 0.2, "rounds": 3, **options, "on_round": lambda *now: told.append(now)}
    _, report = precut.prune(_convs(), score, example_inputs=X, ignored_layers=["0"], **options)
    assert [now[:2] for now in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1][2] == report.k


def test_supports_of_a_shared_weight_do_not_move():
    pruned, _ = precut.prune(Tied(), "random", 0.3, X)
    optimizer = torch.optim.SGD(pruned.parameters(), 0.1)
    with pytest.raises(PrecutError, match=r"layers 'b' and 'c' share their weight.*ignored_layers=\['b', 'c'\]"):
        training.SupportMover(pruned, optimizer, steps=10)
    assert training.SupportMover(pruned, optimizer, steps=10, ignored_layers=["b", "c"]).layers == ["a", "f", "f2"]


class Query(nn.Module):
    """A gate that a layer computes from a learned query, not from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.gate, self.h, self.o = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 6), *_two()

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.h(x).relu() * torch.sigmoid(self.gate(self.q)))


def _two() -> tuple[nn.Module, nn.Module]:
    return nn.Linear(3, 6), nn.Linear(6, 4)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.h, self.o = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.h(self.e(x)).relu().mean(1))


@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_layers_that_run_on_parameters(score):
    torch.manual_seed(0)
    model, x = Query(), torch.randn(5, 3)
    difference, report = _difference(model, score, 0.6, x)
    assert difference < 1e-6
    assert report.live["gate"] == 0  # on no path from the input, and still of use


def test_a_network_of_tokens():
    torch.manual_seed(0)
    model, x = Tokens(), torch.randint(20, (3, 5))
    pruned, report = precut.prune(model, "magnitude", 0.5, x[:1])
    removed, _ = precut.prune(model, "magnitude", 0.5, x[:1], remove_dead=True)
    assert report.k == math.ceil(0.5 * report.size)
    assert report.live is None
    assert torch.allclose(pruned(x), removed(x), atol=1e-6)
    with pytest.raises(PrecutError, match="nothing flows from the model's inputs"):
        precut.prune(model, "synflow", 0.5, x[:1])


def _convs() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


@pytest.mark.parametrize("least", [5, 20])
@pytest.mark.parametrize("structure", ["weight", "block:16", "class:8", "kernel"])
@pytest.mark.parametrize("budget", ["weights", "macs"])
@pytest.mark.parametrize("allocation", ["global", "erdos-renyi-kernel"])
@pytest.mark.parametrize("density", [0.004, 0.02, 0.1])
def test_floors_never_exceed_the_budget(least, structure, budget, allocation, density):
    torch.manual_seed(0)
    options = {"structure": structure, "budget": budget, "allocation": allocation}
    try:
        _, report = precut.prune(_convs(), "magnitude", density, X, min_per_layer=least, **options)
    except PrecutError as error:
        assert "min_per_layer" in str(error)  # noqa: PT017 (either outcome is right)
        assert density < 0.1 or "block" in structure or "kernel" in structure or budget == "macs"
        return
    prices = {"0": 64, "2": 64, "6": 1} if budget == "macs" else {"0": 1, "2": 1, "6": 1}
    size = sum(report.dense[name] * price for name, price in prices.items())
    kept = sum(report.kept[name] * price for name, price in prices.items())
    assert kept <= math.ceil(density * size)
    assert all(report.kept[name] >= min(least, report.dense[name]) for name in prices)
    torch.manual_seed(0)
    free = precut.prune(_convs(), "magnitude", density, X, **options)[1]
    assert set(report.held) == {name for name in prices if free.kept[name] < least}


def _now_and_then() -> Callable[[Network], dict[str, Tensor]]:
    calls = []

    def score(network: Network) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) % 3 == 0:
            return {name: layer.weight.abs() for name, layer in network.layers.items()}
        return pruning.scores["synflow"]()(network)

    return score


class Twice(pruning.Score):
    """SynFlow, asked twice a round."""

    regrows = False

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def __call__(self, network: Network) -> dict[str, Tensor]:
        synflow = pruning.scores["synflow"]()
        first = {name: score.clone() for name, score in synflow(network).items()}
        masks = {name: mask.clone() for name, mask in network.masks.items()}
        self.seen.append((masks, first))
        return synflow(network)


class Returning(Twice):
    """The same, where weights may come back."""

    regrows = True


@pytest.mark.parametrize("kind", [Twice, Returning])
def test_synflow_within_another_score_is_that_of_the_masks(kind):
    torch.manual_seed(0)
    model = _convs()
    score = kind()
    precut.prune(model, score, 0.03, X, rounds=12)
    assert len(score.seen) == 12
    for masks, given in score.seen:
        wanted = pruning.score_weights(model, "synflow", X, masks=masks)
        for name in wanted:
            mask = masks.get(name, torch.ones_like(wanted[name], dtype=torch.bool))
            assert torch.allclose(given[name] * mask, wanted[name] * mask, rtol=1e-9, atol=0)


def test_synflow_that_is_not_asked_every_round():
    torch.manual_seed(0)
    _, report = precut.prune(_convs(), _now_and_then(), 0.02, X, rounds=20)
    assert report.k == math.ceil(0.02 * report.size)


class Grouped(nn.Module):
    """Its first layer's input lies channels last."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a, self.o = layer, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.a(x.permute(0, 3, 1, 2)).relu().mean((2, 3)))


@pytest.mark.parametrize(
    "layer", [lambda: nn.Conv2d(4, 8, 3, padding=1, groups=2), lambda: nn.ConvTranspose2d(4, 8, 3)]
)
def test_few_survivors_behind_a_permutation(layer):
    torch.manual_seed(0)
    _, report = precut.prune(Grouped(layer()), "synflow", 0.05, torch.zeros(1, 8, 8, 4), rounds=20)
    assert report.k == math.ceil(0.05 * report.size)


@pytest.mark.parametrize("score", ["snip", "grasp", "force", "ntk-sap", "synflow", "magnitude", "random"])
def test_gradients_may_be_off(score):
    torch.manual_seed(0)
    model = _convs()
    batch = [(torch.randn(8, 3, 8, 8), torch.arange(8))]
    on = precut.prune(model, score, 0.2, X, data=batch, rounds=2)[1].masks()
    with torch.no_grad():
        off = precut.prune(model, score, 0.2, X, data=batch, rounds=2)[1].masks()
    assert all(torch.equal(on[name], off[name]) for name in on)


@pytest.mark.parametrize(
    ("score", "loss", "message"),
    [
        ("snip", lambda result, targets: result.detach().sum(), "the loss does not depend on the weights"),
        ("grasp", lambda result, targets: result.detach().sum(), "the loss does not depend on the weights"),
    ],
)
def test_a_loss_without_a_gradient_is_told(score, loss, message):
    with pytest.raises(PrecutError, match=message):
        precut.prune(_convs(), score, 0.2, X, data=[(X, X)], loss=loss)


def test_a_loss_without_curvature_scores_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    _, report = precut.prune(model, "grasp", 0.2, X, data=[(X + 1, X)], loss=lambda result, _: result.sum())
    assert report.k == math.ceil(0.2 * report.size)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))).mean(1)


def test_grasp_of_attention():
    torch.manual_seed(0)
    x = torch.randn(4, 5, 8)
    _, report = precut.prune(Attending(), "grasp", 0.5, x[:1], data=[(x, torch.arange(4))])
    assert report.k == math.ceil(0.5 * report.size)


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).reshape(1, 6).relu())


def test_noise_that_a_model_does_not_take_is_told():
    with pytest.raises(PrecutError, match=r"do not take this batch of noise \(\(64, 6\)"):
        precut.prune(FixedBatch(), "ntk-sap", 0.5, torch.zeros(1, 6))


class Several(nn.Module):
    def __init__(self, result: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.result, self.a, self.b = result, nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        h = self.a(x).relu()
        return self.result(h, self.b(h))


def test_official_synflow_of_several_results():
    torch.manual_seed(0)
    model = Several(lambda h, y: {"hidden": h, "logits": y})
    scores = pruning.score_weights(model, "synflow", torch.zeros(1, 6), official=True)
    model.result = lambda h, y: torch.cat([h, y], 1)
    wanted = pruning.score_weights(model, "synflow", torch.zeros(1, 6), official=True)
    assert all(torch.equal(scores[name], wanted[name]) for name in wanted)


def test_a_density_of_numpy_ends_in_json():
    _, report = precut.prune(_convs(), "random", np.float32(0.25), X)
    assert '"density": 0.25' in report.to_json()


def test_muon_on_a_layer_without_weights():
    parameter = nn.Parameter(torch.zeros(0, 1))
    parameter.grad = torch.zeros(0, 1)
    other = nn.Parameter(torch.ones(3, 4))
    other.grad = torch.ones(3, 4)
    Muon([parameter, other], lr=0.1).step()
    assert not torch.equal(other, torch.ones(3, 4))


ReLUs = {
    "clamp_min": lambda h: h.clamp_min(0),
    "threshold": lambda h: F.threshold(h, 0.0, 0.0),
    "times a comparison": lambda h: h * (h > 0),
    "masked": lambda h: h.masked_fill(h < 0, 0.0),
    "where": lambda h: torch.where(h > 0, h, torch.zeros_like(h)),
    "where nothing": lambda h: torch.where(h > 0, h, 0.0),
    "maximum": lambda h: torch.maximum(h, torch.zeros(1)),
    "halves": lambda h: torch.hstack([h[:, :4], h[:, 4:]]).relu(),
    "repeated": lambda h: h.repeat(1, 1).relu(),
}


@pytest.mark.parametrize("name", ReLUs)
def test_relu_by_other_means(name):
    torch.manual_seed(0)
    model = Chain(F.relu)
    wanted = pruning.score_weights(model, "synflow", torch.zeros(1, 6))
    model.between = ReLUs[name]
    found = pruning.score_weights(model, "synflow", torch.zeros(1, 6))
    assert all(torch.allclose(found[layer], wanted[layer], rtol=1e-12, atol=0) for layer in wanted)
    difference, report = _difference(model, _dead_inputs, (136 - 36) / 136, torch.randn(5, 6))
    assert difference < 1e-6
    assert report.conservation is not None


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h.clamp_min(0.5),
        lambda h: (h > 0.1).to(h.dtype),
        lambda h: torch.where(h > 0, 1.0, 2.0),
        lambda h: torch.where(h > 0, h, torch.ones(8)),
        lambda h: h.masked_fill(h < 0, 1.5),
        lambda h: torch.min(h, torch.tensor(0.3)),
    ],
    ids=["clamp_min", "step", "where of constants", "where of one", "masked", "min"],
)
@pytest.mark.parametrize("bias", [False, True])
def test_something_of_nothing(between, bias):
    torch.manual_seed(0)
    difference, _ = _difference(Chain(between, bias), _dead_inputs, (136 - 36) / 136, torch.randn(5, 6))
    assert difference < 1e-6
