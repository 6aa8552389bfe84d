"""The report: numbers, warnings by name, text and JSON; and how operations are followed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut.pruning import PruneReport, score_weights


class Net(nn.Module):
    """Members by name, and a function for forward."""

    def __init__(self, function: Callable[..., Tensor], **members: nn.Module) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def line() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        for index, rows in ((0, [[9, 0], [8, 7], [0, 0]]), (2, [[0, 0, 6], [5, 0, 0], [0, 0, 0], [0, 0, 0]])):
            model[index].weight.copy_(torch.tensor(rows, dtype=torch.float32))
        model[4].weight.copy_(torch.tensor([[4.0, 0, 0, 0], [0, 0.5, 0, 0]]))
    return model


def test_a_report_by_hand() -> None:
    """Kept are the six largest weights. One path leads to the second layer's row 1, and nothing reads that row."""
    _, report = precut.prune(line(), "magnitude", 6 / 26, torch.zeros(1, 2))
    assert report.kept == {"0": 3, "2": 2, "4": 1}
    assert report.live == {"0": 0, "2": 0, "4": 0}
    assert (report.k, report.size, report.rho, report.rho_max) == (6, 26, 26 / 6, 26 / 3)
    assert report.conservation is not None
    assert report.conservation.flow is False
    assert report.warnings == [
        "0 keeps 3 weights, none of them on a path from input to output",
        "2 keeps 2 weights, none of them on a path from input to output",
        "4 keeps 1 weights, none of them on a path from input to output",
    ]
    _, report = precut.prune(line(), "magnitude", 7 / 26, torch.zeros(1, 2))
    assert report.live == {"0": 1, "2": 1, "4": 1}
    assert str(report) == (
        "magnitude, 1 round, allocation global: 7 of 26 weights kept (26.9 %), compression 3.7143 of at most 8.6667\n"
        "layer  dense  kept  density  on a path\n"
        "--------------------------------------\n"
        "0          6     3   50.0 %          1\n"
        "2         12     2   16.7 %          1\n"
        "4          8     2   25.0 %          1\n"
        "--------------------------------------\n"
        "total     26     7   26.9 %          3\n"
        "warning: 0 has only 1 weights on paths from input to output\n"
        "warning: 2 has only 1 weights on paths from input to output\n"
        "warning: 4 has only 1 weights on paths from input to output\n"
        "synaptic flow is conserved to 0.0e+00 over 2 channels (flow in and out), 0.0e+00 over 3 cuts (flow through each "
        "and in\n  all)"
    )
    data = json.loads(report.to_json())
    assert data["kept"] == {"0": 3, "2": 2, "4": 2}
    assert data["live"] == {"0": 1, "2": 1, "4": 1}
    assert data["conservation"] == {"neurons": 0.0, "cuts": 0.0, "flows": True}
    assert report.table().rows[0] == {"layer": "0", "dense": 6, "kept": 3, "density": 0.5, "live": 1}


def test_an_empty_layer_is_named() -> None:
    _, report = precut.prune(line(), "magnitude", 3 / 26, torch.zeros(1, 2))
    assert report.empty == ["2", "4"]
    assert "layer collapse: 2 of 3 layers are empty" in str(report)
    assert report.warnings[1] == "2 is empty: nothing flows through it"


def test_flow_through_shared_weights_is_compared_over_cuts_alone() -> None:
    """A shared weight has one score for all its places, which no single channel's flow can be compared with."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(4)), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    model[2].weight = model[1].weight
    _, report = precut.prune(model, "synflow", 0.6, torch.zeros(1, 6))
    flow = report.conservation
    assert flow is not None
    assert flow.neurons is not None
    assert flow.cuts is not None
    assert flow.neurons < 1e-12
    assert flow.cuts < 1e-12
    assert flow.channels <= 6 + 5  # of the inputs of the last two layers


def test_one_round_of_what_takes_many_is_noted() -> None:
    _, report = precut.prune(line(), "synflow", 0.5, torch.zeros(1, 2))
    assert report.notes == ["synflow ran in one round; its paper takes 100: rounds=100"]


def report_of(
    function: Callable[..., Tensor], x: Tensor, **members: nn.Module
) -> tuple[PruneReport, dict[str, Tensor]]:
    model = Net(function, **members).eval()
    return precut.prune(model, "synflow", 1.0, x)[1], score_weights(model, "synflow", x)


X = torch.zeros(1, 4, 6, 6)


def test_gates_are_held_at_one_and_named() -> None:
    torch.manual_seed(0)
    gated, scores = report_of(
        lambda m, x: m.c(m.a(x) * torch.sigmoid(m.b(x.mean((2, 3), keepdim=True)))),
        *(X,),
        a=nn.Conv2d(4, 4, 3),
        b=nn.Conv2d(4, 4, 1),
        c=nn.Conv2d(4, 2, 1),
    )
    assert any("gates are held at one: mul" in note for note in gated.notes)
    assert not scores["b"].any()
    torch.manual_seed(0)
    plain, others = report_of(
        lambda m, x: m.c(m.a(x)), X, a=nn.Conv2d(4, 4, 3), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(4, 2, 1)
    )
    assert torch.equal(scores["a"], others["a"])
    assert gated.live is not None
    assert gated.live["b"] > 0  # a gate's weights do lie on paths
    assert plain.live is not None
    assert plain.live["b"] == 0


FOLLOWED: dict[str, tuple[Callable[..., Any], dict[str, nn.Module]]] = {
    "attention": (
        lambda m, x: m.out(
            torch.softmax(m.q(x).flatten(2).transpose(1, 2) @ m.k(x).flatten(2), -1) @ m.v(x).flatten(2).transpose(1, 2)
        ),
        {"q": nn.Conv2d(4, 4, 1), "k": nn.Conv2d(4, 4, 1), "v": nn.Conv2d(4, 4, 1), "out": nn.Linear(4, 2)},
    ),
    "swish": (lambda m, x: m.b(F.silu(m.a(x))), {"a": nn.Conv2d(4, 4, 3), "b": nn.Conv2d(4, 2, 1)}),
    "norms": (
        lambda m, x: m.b(m.n(m.g(m.a(x)))),
        {
            "a": nn.Conv2d(4, 4, 3),
            "g": nn.GroupNorm(2, 4),
            "n": nn.InstanceNorm2d(4, affine=True),
            "b": nn.Conv2d(4, 2, 1),
        },
    ),
    "resized": (
        lambda m, x: m.b(F.interpolate(F.pad(m.a(x), (1, 0, 0, 1), value=3.0), scale_factor=2.0)),
        {
            "a": nn.Conv2d(4, 4, 3, padding="same", dilation=2),
            "b": nn.Conv2d(4, 2, 3, stride=2, padding_mode="circular", padding=1),
        },
    ),
    "max and indices": (
        lambda m, x: m.b(m.pool(m.a(x))[0].amax((2, 3), keepdim=True)),
        {"a": nn.Conv2d(4, 4, 3), "pool": nn.MaxPool2d(2, return_indices=True), "b": nn.Conv2d(4, 2, 1)},
    ),
    "scaled": (
        lambda m, x: (1 - m.b(m.a(x) / 3 - 0.5) * 2).sum((2, 3)),
        {"a": nn.Conv2d(4, 4, 3), "b": nn.Conv2d(4, 2, 1)},
    ),
    "dilated pool": (
        lambda m, x: m.b(F.max_pool2d(m.a(x), 2, 1, dilation=2)),
        {"a": nn.Conv2d(4, 4, 3), "b": nn.Conv2d(4, 2, 1)},
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_operations_that_are_followed(name: str) -> None:
    function, members = FOLLOWED[name]
    report, scores = report_of(function, X, **members)
    assert report.live is not None
    assert all(live > 0 for live in report.live.values())
    sums = {key: float(value.sum()) for key, value in scores.items() if key not in ("q", "k")}
    assert max(sums.values()) == pytest.approx(min(sums.values()), rel=1e-9)
    assert not any(float(scores[key].sum()) for key in ("q", "k") if key in scores)


def test_what_cannot_be_followed_is_said() -> None:
    model = Net(lambda m, x: m.b(torch.cumsum(m.a(x), 1)), a=nn.Conv2d(4, 4, 3), b=nn.Conv2d(4, 2, 1))
    message = (
        r"torch\.cumsum \(cumsum, test_report\.py:\d+\) cannot be linearised, as synflow and the report of paths need"
    )
    with pytest.raises(precut.PrecutError, match=message):
        precut.prune(model, "synflow", 0.5, X)
    _, report = precut.prune(model, "magnitude", 0.5, X)
    assert report.live is None
    assert report.conservation is None
    assert report.notes[0].startswith("paths and flow were not looked at: torch.cumsum")
    assert report.table().rows[0]["live"] is None
