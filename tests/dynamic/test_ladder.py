"""Ladders: budgets are met by one chain of nested prefixes, in the order of the scores, and periods survive."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import precut
from dynamic.oracle import images, prepared
from graph.nets import close
from precut.dynamic import DynamicNet, Point, check_ladder, make_dynamic, ranks
from precut.dynamic._ladder import _chain
from precut.dynamic._rank import channel_scores
from precut.errors import PrecutError

X = images(2, 32)


def slow(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def macs(dyn: DynamicNet, point: Point) -> int:
    return precut.summary(dyn.extract(point, uncalibrated=True), X[:1]).macs


@pytest.mark.parametrize("rank", ["l1", None, *(slow(rank) for rank in ("l2", "bn", "synflow"))])
@pytest.mark.parametrize("support", ["dense", "PSD4_P8", slow("pSC4")])
@pytest.mark.parametrize("name", ["resnet20", "speednet", slow("mobilenetv2")])
def test_budgets_are_met_by_nested_points(name: str, support: str, rank: str | None) -> None:
    width = 1.0 if name == "resnet20" else 0.5
    dyn = prepared(precut.sparsify(precut.create_model(name, width_mult=width), support), X)
    before = dyn.model(X)
    points = dyn.ladder([1, 0.6, 0.2], rank=rank, align=4)
    assert close(dyn.eval()(X), before)  # permuted, but the same network
    assert list(dyn.points) == points
    costs = [macs(dyn, point) for point in points]
    assert costs[0] == macs(dyn, dyn.full)
    for share, cost in zip((1, 0.6, 0.2), costs, strict=True):
        assert cost <= share * costs[0]
        assert cost > 0.6 * share * costs[0]  # and not by far: blocks are coarse in narrow networks
    assert all(b.within(a) for a, b in itertools.pairwise(points))
    for name_, dim in dyn.space.widths.items():
        for point in points:
            assert point.width(name_) == dim.size or point.width(name_) % dim.period == 0
    if support != "pSC4":  # the rules are still rules
        assert {str(m.support.maker) for m in dyn.model.modules() if isinstance(m, precut.SparseConv2d)} <= {support}


def small() -> DynamicNet:
    """conv (8 channels) - batch norm - conv (4) - linear."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    return prepared(net, X)


def test_scores_by_hand() -> None:
    dyn = small()
    weight = dyn.model[0].weight.detach()
    want = weight.abs().sum((1, 2, 3))
    assert torch.allclose(channel_scores(dyn, "l1")["0"], want / want.mean())
    want = weight.square().sum((1, 2, 3)).sqrt()
    assert torch.allclose(channel_scores(dyn, "l2")["0"], want / want.mean())


def test_bn_scores() -> None:
    dyn = make_dynamic(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)), X.float())
    scale = dyn.model[1].weight.data
    scale.copy_(torch.arange(8.0) - 4)
    assert torch.allclose(channel_scores(dyn, "bn")["0"], (scale.abs() / scale.abs().mean()).double())
    assert torch.equal(channel_scores(small(), "bn")["3"], channel_scores(small(), "l1")["3"])  # it has no batch norm


def test_coupled_layers_give_the_mean_of_their_scores() -> None:
    dyn = prepared(precut.create_model("resnet8"), X)
    dim = dyn.space.widths["stem.0"]
    makers = ("stem.0", "stages.0.0.body.3")
    parts = [dyn.model.get_submodule(name).weight.detach().abs().sum((1, 2, 3)) for name in makers]
    want = sum(part / part.mean() for part in parts) / 2
    assert {o.owner for o in dim.channels.occurrences if o.axis == "out"} == set(makers)
    assert torch.allclose(channel_scores(dyn, "l1")["stem.0"], want)


def test_taylor_scores_by_leaving_channels_out() -> None:
    """For tiny weights the score is the square of what the loss changes by without the channel."""
    dyn = small()
    dyn.model.eval()
    with torch.no_grad():
        dyn.model[3].weight.mul_(1e-4)
        dyn.model[3].bias.zero_()
        dyn.model[4] = nn.Identity()
    dyn = make_dynamic(dyn.model, X)
    x, labels = images(8, 8), torch.arange(8) % 5
    scores = channel_scores(dyn, "taylor", [(x[:5], labels[:5]), (x[5:], labels[5:])])["3"]

    def loss() -> float:
        return nn.functional.cross_entropy(dyn.model(x), labels, reduction="sum").item()

    full, changes = loss(), []
    for channel in range(4):
        kept = dyn.model[3].weight.data[channel].clone()
        dyn.model[3].weight.data[channel] = 0
        changes.append((loss() - full) ** 2)
        dyn.model[3].weight.data[channel] = kept
    want = torch.tensor(changes, dtype=torch.float64)
    assert torch.allclose(scores, want / want.mean(), rtol=1e-2)


def test_synflow_scores_by_brute_force() -> None:
    """A row's score is the flow through it: the change of R when the row goes, since R is linear in it."""
    dyn = small()
    for module in dyn.model:
        if hasattr(module, "bias") and module.bias is not None:
            nn.init.zeros_(module.bias)
    dyn.model[1].running_mean.zero_()
    scores = channel_scores(dyn, "synflow")["0"]
    net = copy.deepcopy(dyn.model)
    for own, other in zip(net.state_dict().values(), dyn.model.state_dict().values(), strict=True):
        own.copy_(other.abs())
    full, changes = net(torch.ones_like(X)).sum(), []
    for channel in range(8):
        kept = net[0].weight.data[channel].clone()
        net[0].weight.data[channel] = 0
        changes.append(full - net(torch.ones_like(X)).sum())
        net[0].weight.data[channel] = kept
    want = torch.stack(changes).detach()
    assert torch.allclose(scores, want / want.mean())


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 4]),
    st.lists(st.floats(0.25, 0.999), min_size=1, max_size=4, unique=True),
)
def test_budgets_are_used_up(seed: int, align: int, budgets: list[float]) -> None:
    """With scores by hand: not one more block fits into any point's budget."""
    dyn = small()
    draw = np.random.default_rng(seed)
    scores = {name: draw.random(dim.size) for name, dim in dyn.space.widths.items()}
    budgets = sorted(budgets, reverse=True)
    try:
        points = dyn.ladder(budgets, rank=scores, align=align, floor=0)
    except PrecutError as error:
        assert "cannot be met" in str(error) or "are the same" in str(error)  # noqa: PT017
        return
    full = macs(dyn, dyn.full)
    for point, share, above in zip(points, budgets, [dyn.full, *points], strict=False):
        assert macs(dyn, point) <= share * full
        for name, dim in dyn.space.widths.items():
            wider = point.width(name) + dyn.space.unit(dim, align)
            if wider <= above.width(name):
                more = dyn.point(widths={**dict(point.widths), name: wider})
                assert macs(dyn, more) > share * full


@pytest.mark.parametrize("align", [1, 2, 4])
def test_what_goes_first_is_least(align: int) -> None:
    dyn = prepared(precut.create_model("resnet8"), X)
    draw = np.random.default_rng(align)
    scores = {
        name: torch.from_numpy(np.sort(draw.random(dim.size))[::-1].copy()) for name, dim in dyn.space.widths.items()
    }
    chain = _chain(dyn, align, dict.fromkeys(dyn.space.widths, 0.25), scores)
    worth = [scores[name][left : left + align].mean().item() for name, left in chain]
    assert worth == sorted(worth)
    least = {name: min(left for owner, left in chain if owner == name) for name in dyn.space.widths}
    assert least == {name: max(align, dim.size // 4) for name, dim in dyn.space.widths.items()}


def test_ranking_within_residue_classes_keeps_supports() -> None:
    dyn = prepared(precut.sparsify(precut.create_model("speednet", widths=[16, 32, 32]), "PSD4_P8"), X)
    masks = {n: m.support.mask() for n, m in dyn.model.named_modules() if isinstance(m, precut.SparseConv2d)}
    filters = dyn.model.groups[1].conv1.dense_weight().detach().abs().sum((1, 2, 3))
    dyn.ladder([1, 0.5])
    for name, mask in masks.items():
        assert torch.equal(dyn.model.get_submodule(name).support.mask(), mask)
    ranked = dyn.model.groups[1].conv1.dense_weight().detach().abs().sum((1, 2, 3))
    for residue in range(8):
        assert torch.allclose(ranked[residue::8], filters[residue::8].sort(descending=True).values)


def test_choices_and_depth_and_resolution() -> None:
    dyn = prepared(precut.create_model("resnet20"), X)
    deeper = {"skip": ["stages.0.1", "stages.2.2"], "resolution": 24}
    points = dyn.ladder([1, 0.5, 0.2], choices=[None, {"skip": ["stages.0.1"]}, deeper])
    assert [len(point.skipped) for point in points] == [0, 1, 2]
    assert points[2].resolution == 24
    net = dyn.extract(points[2], uncalibrated=True)
    assert precut.summary(net, X[:1, :, :24, :24]).macs <= 0.2 * macs(dyn, dyn.full)


def test_params_and_a_metric_of_your_own_and_absolute_budgets() -> None:
    dyn = prepared(precut.create_model("resnet8"), X)
    full = sum(p.numel() for p in dyn.model.parameters())
    (point,) = dyn.ladder([0.3], metric="params")
    assert 0.2 * full < sum(p.numel() for p in dyn.extract(point, True).parameters()) <= 0.3 * full
    (point,) = dyn.ladder([20_000], metric=lambda net: sum(p.numel() for p in net.parameters()), absolute=True)
    assert 15_000 < sum(p.numel() for p in dyn.extract(point, True).parameters()) <= 20_000


def test_latency_budgets_are_measured() -> None:
    dyn = make_dynamic(precut.create_model("resnet8", width_mult=2.0), X[:1].float())
    points = dyn.ladder([1, 0.6], metric="latency")
    assert points[0] == dyn.full
    assert points[1] != dyn.full


def test_a_ranking_again_forgets_points_only_if_the_order_changes() -> None:
    dyn = prepared(precut.create_model("resnet8"), X)
    first = dyn.ladder([1, 0.5])
    dyn.recalibrate(first[1], X)
    assert dyn.ladder([1, 0.5]) == first
    assert dyn.calibrated(first[1])
    dyn.ladder([1, 0.5], rank={name: range(dim.size) for name, dim in dyn.space.widths.items()})
    assert not dyn.calibrated(first[1])


def flat(dyn: DynamicNet) -> dict[str, Any]:
    return {name: range(dim.size) for name, dim in dyn.space.widths.items()}


FINITE = "rank needs 16 scores of dimension 'stem.0', finite numbers in one row; got "
WRONG: list[tuple[Callable[[DynamicNet], Any], str]] = [
    (lambda d: d.ladder([]), "budgets must be a list of shares of the full network's cost, above 0 and at most 1; got []"),
    (lambda d: d.ladder(0.5), "budgets must be a list of shares of the full network's cost, above 0 and at most 1; got 0.5"),
    (lambda d: d.ladder([2]), "budgets must be a list of shares of the full network's cost, above 0 and at most 1; got [2]"),
    (lambda d: d.ladder([0.5, 0.7]), "budgets must fall from one to the next; got 0.7 after 0.5"),
    (lambda d: d.ladder([0.5, 0.5]), "budgets must fall from one to the next; got 0.5 after 0.5"),
    (lambda d: d.ladder([0.001]), "budget 0.001 cannot be met: the smallest subnet costs"),
    (lambda d: d.ladder([0.5, 0.4999]), "points 0 and 1 of the ladder are the same: choose budgets further apart"),
    (lambda d: d.ladder([0.5], metric="flops"), "unknown metric 'flops'"),
    (lambda d: d.ladder([0.5], rank="l3"), "unknown rank 'l3': did you mean 'l2'?"),
    (lambda d: d.ladder([0.5], rank={}), "rank needs 16 scores of dimension 'stem.0'"),
    (
        lambda d: d.ladder([0.5], rank={**flat(d), "bogus": [1]}),
        "unknown width dimension in rank 'bogus': ",
    ),
    (lambda d: d.ladder([0.5], rank={**flat(d), "stem.0": [float("nan")] * 16}), FINITE + "[nan, "),
    (lambda d: d.ladder([0.5], rank={**flat(d), "stem.0": torch.rand(16, 2)}), FINITE + "tensor("),
    (lambda d: d.ladder([0.5], rank={**flat(d), "stem.0": 1.0}), FINITE + "1.0"),
    (lambda d: d.ladder([0.5], rank=5), "rank is a name of 'bn', 'l1', 'l2', 'synflow', 'taylor', or scores by dimension; "),
    (lambda d: d.ladder([0.5], rank="taylor", data=[(X, torch.full((len(X),), 50))]), "rank='taylor' needs a network of"),
    (lambda d: d.ladder([0.5], metric=lambda net: float("nan")), "metric must give the network's cost, a finite number"),
    (lambda d: d.ladder([0.5], metric=lambda net: None), "metric must give the network's cost, a finite number from 0 up; "),
    (lambda d: d.ladder([0.5], choices=[5]), "each of choices is None or keywords of dyn.point, {'skip': [...]}; got 5"),
    (lambda d: d.ladder([0.5], choices=[{"res": 5}]), "unknown keyword in choices 'res'"),
    (lambda d: d.ladder([0.5], choices=5), "choices needs one entry (or None) for each of the 1 budgets; got 5"),
    (lambda d: d.ladder([0.5], unifrom=True), "unknown option of ladder 'unifrom': did you mean 'uniform'?"),
    (lambda d: d.ladder([0.5], rank="taylor"), "rank='taylor' needs data: a Dataset (precut.data.load), a tensor"),
    (lambda d: d.ladder([0.5], rank="taylor", data=[X]), "rank='taylor' needs labelled data"),
    (lambda d: d.ladder([0.5], align=0), "align must be a whole number of at least 1; got 0"),
    (lambda d: d.ladder([0.5], floor=2), "floor must be a share of each dimension from 0 to 1; got 2"),
    (lambda d: d.ladder([0.5], choices=[]), "choices needs one entry (or None) for each of the 1 budgets; got 0"),
    (
        lambda d: d.ladder([0.6, 0.5], choices=[{"skip": ["stages.0.0"]}, None]),
        "the ladder is not monotone: point 1 does not lie within point 0; order points from large to small, or pass "
        "nested=False",
    ),
    (
        lambda d: check_ladder([d.point(0.5), d.point(1.0)]),
        "the ladder is not monotone: point 1 does not lie within point 0",
    ),
    (lambda d: d.permute_({"stem": [0]}), "unknown width dimension 'stem': did you mean 'stem.0'?"),
]  # fmt: skip


@pytest.mark.parametrize(("use", "message"), WRONG)
def test_wrong_uses(use: Callable[[DynamicNet], Any], message: str) -> None:
    dyn = prepared(precut.create_model("resnet8"), X)
    with pytest.raises(PrecutError, match=f"^{re.escape(message)}"):
        use(dyn)


class Dict(nn.Module):
    """Two inputs, a dict of results."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.head(self.a(a) + self.b(b))}


def test_ranks_that_need_another_network() -> None:
    dyn = make_dynamic(Dict(), {"a": X.float(), "b": X.float()})
    with pytest.raises(PrecutError, match=r"^rank='synflow' needs a network that gives one tensor; got a dict"):
        dyn.ladder([1, 0.5], rank="synflow", align=1)
    with pytest.raises(PrecutError, match=r"^rank='taylor' needs a network of one input that gives logits"):
        dyn.ladder([1, 0.5], rank="taylor", align=1, data=[(X.float(), torch.zeros(len(X), dtype=torch.int64))])


@pytest.mark.parametrize("rank", ["l1", "taylor", "synflow"])
def test_a_network_in_another_precision(rank: str) -> None:
    """The example, data and ones follow the network."""
    x = X.float()
    dyn = make_dynamic(precut.create_model("resnet8", width_mult=0.5), x).double()
    points = dyn.ladder([1, 0.5], rank=rank, align=1, data=[(x, torch.zeros(len(x), dtype=torch.int64))])
    dyn.recalibrate(points, x)
    dyn.eval().set_point(points[1])
    want = dyn(X)
    assert want.dtype == torch.float64
    dyn.float().recalibrate(points, X)
    assert torch.allclose(dyn(x).double(), want, atol=1e-3)


def test_an_order_across_residue_classes_is_refused() -> None:
    dyn = prepared(precut.sparsify(precut.create_model("speednet", widths=[16, 32, 32]), "PS4_P4"), X)
    name = "groups.1.conv1"
    order = [1, 0, *range(2, 32)]
    with pytest.raises(PrecutError, match=r"^this order of 'groups.1.conv1' moves channels between residue classes"):
        dyn.permute_({name: order})
    assert set(ranks.names()) == {"l1", "l2", "bn", "taylor", "synflow"}


def test_energy_without_counters_says_why() -> None:
    counters, reasons = precut.measure.energy_counters()
    if counters:
        pytest.skip("this machine has energy counters")
    dyn = make_dynamic(precut.create_model("resnet8"), X[:1].float())
    with pytest.raises(PrecutError, match=r"^metric='energy' cannot be measured here: not available"):
        dyn.ladder([1, 0.5], metric="energy")
    assert reasons
