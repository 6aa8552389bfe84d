"""Metrics against second writings of their definitions, and rankings against known orders."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precut import PrecutError, create_model, summary
from precut.topology import METRICS, Probe, isometry, nn_mass, rank
from precut.topology._proxies import naswot, zen, zico


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.two, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.one(x)))
        return F.relu(self.two(x) + x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def small() -> tuple[Small, Tensor, Tensor]:
    torch.manual_seed(0)
    return Small(), torch.randn(8, 3, 6, 6), torch.randint(0, 4, (8,))


def test_naswot_counts_agreeing_switches() -> None:
    model, x, _ = small()
    train = copy.deepcopy(model).train()
    y = train.norm(train.one(x))
    first = (y > 0).flatten(1)
    second = (train.two(F.relu(y)) + F.relu(y) > 0).flatten(1)
    codes = torch.cat([first, second], 1)
    kernel = (codes[:, None] == codes[None]).sum(2).double()
    assert naswot(model, x) == pytest.approx(float(torch.linalg.slogdet(kernel)[1]), rel=1e-6)


def test_zico_is_mean_over_spread() -> None:
    model, x, y = small()
    gradients = []
    for part in (slice(0, 4), slice(4, 8)):
        copied = copy.deepcopy(model).train()
        F.cross_entropy(copied(x[part]), y[part]).backward()
        gradients.append([p.grad for p in copied.parameters() if p.ndim > 1])
    score = 0.0
    for a, b in zip(*gradients, strict=True):
        mean, spread = (a.abs() + b.abs()) / 2, (a - b).abs() / 2
        score += math.log(float((mean[spread > 0] / spread[spread > 0]).double().sum()))
    assert zico(model, x, y) == pytest.approx(score, rel=1e-4)


def test_zen_is_the_change_of_features_and_the_norms_scale() -> None:
    """With one draw: the same numbers from the same generator, by hand."""
    model, x, _ = small()
    found = zen(model, x, torch.Generator().manual_seed(5), repeats=1)
    generator = torch.Generator().manual_seed(5)
    by_hand = copy.deepcopy(model).double().train()
    with torch.no_grad():
        for layer in (by_hand.one, by_hand.two, by_hand.head):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64))
            layer.bias.zero_()
        a, noise = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2))
        change = (by_hand.features(a) - by_hand.features(a + 0.01 * noise)).abs().flatten(1).sum(1).mean()
        variance = by_hand.one(a + 0.01 * noise).var((0, 2, 3)).mean()
    assert found == pytest.approx(math.log(float(change)) + 0.5 * math.log(float(variance)), rel=1e-6)


def test_synflow_is_the_flow_of_the_absolute_network() -> None:
    model, x, _ = small()
    flat = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.abs_()
        for layer in (flat.one, flat.two, flat.head):
            layer.bias.zero_()
        flow = float(flat(torch.ones(1, 3, 6, 6, dtype=torch.float64)).sum())
    assert METRICS["synflow"](Probe(model, x, None, 0)) == pytest.approx(math.log(flow), rel=1e-4)


def test_counted_metrics() -> None:
    model = create_model("resnet8", width_mult=0.5)
    probe = Probe(model, torch.randn(2, 3, 8, 8), None, 0)
    counts = summary(model, torch.zeros(1, 3, 8, 8))
    assert (METRICS["params"](probe), METRICS["macs"](probe)) == (counts.params, counts.macs)
    assert METRICS["nn_mass"](probe) == nn_mass(model).mass
    assert METRICS["degree"](probe) == nn_mass(model).degree
    assert METRICS["density"](probe) == 1
    assert METRICS["isometry"](probe) == isometry(model, probe.inputs, batch_norm="batch", tolerance=0.02).mean
    assert METRICS["nn_mass"](Probe(create_model("vgg11", width_mult=0.25), torch.zeros(1, 3, 32, 32), None, 0)) == 0


@pytest.mark.parametrize("metric", list(METRICS))
def test_metrics_change_nothing_and_repeat(metric: str) -> None:
    model, x, y = small()
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = (METRICS[metric](Probe(model, x, y, 1)) for _ in range(2))
    assert first == second
    assert math.isfinite(first)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_known_orders() -> None:
    models = {str(k): nn.Sequential(nn.Flatten(), nn.Linear(12, 2 * k)) for k in (1, 2, 3, 4, 5)}
    found = rank(models, ["density"], accuracies=[0.1, 0.2, 0.3, 0.5, 0.4], inputs=torch.randn(2, 3, 2, 2))
    assert list(found.values) == ["params", "macs", "density"]
    assert found.order("params") == ["5", "4", "3", "2", "1"]
    params = found["params"]
    assert params.tau == pytest.approx(0.8)  # 9 pairs of 10 agree
    assert params.rho == pytest.approx(0.9)
    assert params.tau_low <= params.tau <= params.tau_high
    assert math.isnan(found["density"].tau)  # all are 0
    assert "params and macs are the baselines" in str(found)
    assert "so few models carry no claim" in str(found)
    assert found.to_dict()["agreements"][2]["tau"] is None
    assert found.to_json()


def test_lists_and_no_accuracies() -> None:
    found = rank([create_model("dense_mlp", in_features=3, depth=4), create_model("dense_mlp", in_features=3, depth=5)])
    assert found.agreements == []
    assert list(found.values["nn_mass"]) == ["1 DenseMlp", "2 DenseMlp"]
    assert "agreement" not in str(found)


def test_intervals_tell_how_little_few_models_carry() -> None:
    random = np.random.default_rng(0)
    models = {str(k): nn.Sequential(nn.Flatten(), nn.Linear(12, k + 1)) for k in range(12)}
    found = rank(models, [], accuracies=list(random.normal(size=12)), inputs=torch.randn(2, 3, 2, 2))
    agreement = found["params"]
    assert agreement.tau_low < 0 < agreement.tau_high


MODELS = {"a": create_model("resnet8", width_mult=0.5), "b": create_model("resnet8")}
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "metric": (lambda: rank(MODELS, ["nnmass"]), "unknown metric 'nnmass': did you mean 'nn_mass'?"),
    "no models": (lambda: rank({}), "rank takes nn.Modules, in a list or by name; got {}"),
    "accuracies": (lambda: rank(MODELS, accuracies=[1.0]), "rank got 2 models and 1 accuracies; expected one a model"),
    "name": (lambda: rank(MODELS, accuracies={"a": 1, "c": 2}), "unknown model in accuracies 'c'"),
    "a word": (
        lambda: rank(MODELS, accuracies=["0.5", "b"]),
        "the accuracy of model 'b' must be a finite number; got 'b'",
    ),
    "not a number": (lambda: rank(MODELS, accuracies=[0.5, math.nan]), "must be a finite number; got nan"),
    "one accuracy": (
        lambda: rank(MODELS, accuracies=0.5),
        "accuracies is one number a model, in a list or by name; got 0.5",
    ),  # type: ignore[arg-type]
    "labels of no class": (
        lambda: zico(MODELS["a"], torch.zeros(4, 3, 8, 8), torch.full((4,), 99)),
        "zico needs a network that gives logits for these inputs, and labels of its classes: Target 99",
    ),
    "one model": (lambda: rank(MODELS["a"]), "rank compares several networks, in a list or by name; got one"),  # type: ignore[arg-type]
    "listed labels": (lambda: rank(MODELS, ["zico"], labels=[0] * 32), "labels must be a tensor; got list"),  # type: ignore[arg-type]
    "missing": (lambda: rank(MODELS, accuracies={"a": 1.0}), "accuracies has none for model 'b'"),
    "labels": (lambda: rank(MODELS, ["zico"]), "metric 'zico' looks at gradients of a loss: pass labels="),
    "inputs": (lambda: rank([nn.Linear(2, 2)]), "Linear is not from create_model: pass inputs=, a batch (N, ...)"),
    "one input": (lambda: naswot(MODELS["a"], torch.zeros(1, 3, 8, 8)), "pass at least 2; got 1"),
    "few": (
        lambda: zico(MODELS["a"], torch.zeros(3, 3, 8, 8), torch.zeros(3).long()),
        "zico divides the inputs into 2 batches of at least 2; got 3 inputs",
    ),
    "wrong labels": (
        lambda: zico(MODELS["a"], torch.zeros(4, 3, 8, 8), torch.zeros(3).long()),
        "labels must be one whole class number an input, 4 here",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(PrecutError) as raised:
        call()
    assert message in str(raised.value)
