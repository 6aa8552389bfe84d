"""Uses of dynamic networks that once came out wrong without a word, or raised what another library says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut import PrecutError
from precut.dynamic import DynamicNet, Point, make_dynamic, train_ladder
from precut.dynamic._calibrate import pooled_statistics
from precut.training import MovingSupports, evaluate, initialise_
from training.toy import RECIPE, Crash, toy_dataset

X = torch.zeros(1, 3, 8, 8)
SHORT = RECIPE.replace(epochs=2, lr=0.1, batch_size=50, val_count=50, average="none", label_smoothing=0.0)


def small(norms: str = "private_stats") -> DynamicNet:
    torch.manual_seed(0)
    return make_dynamic(precut.create_model("resnet8", num_classes=5, input_size=8, width_mult=0.5), X, norms=norms)


@pytest.mark.parametrize("norms", ["private_stats", "recalibrated"])
def test_a_full_network_that_was_not_trained_itself_is_measured(norms):
    data = toy_dataset(train=200, test=50)
    dyn = small(norms)
    result = dyn.fit(data, SHORT, points=[dyn.point(0.5, align=4)], progress=False)
    dyn.set_point(dyn.full)
    found = evaluate(dyn, "test", data)
    dyn.recalibrate([dyn.full], data)
    assert evaluate(dyn, "test", data) == pytest.approx(found, rel=1e-5)
    assert result.run.test_accuracy == pytest.approx(found[1])


def test_points_that_a_training_leaves_out_are_not_known_any_more():
    data = toy_dataset(train=200, test=50)
    dyn = small()
    half, quarter = dyn.point(0.5, align=4), dyn.point(0.25, align=4)
    dyn.fit(data, SHORT.replace(epochs=1), points=[dyn.full, half], progress=False)
    assert dyn.calibrated(half)
    dyn.set_point(half)
    dyn.fit(data, SHORT.replace(epochs=1), points=[dyn.full, quarter], progress=False)
    assert (dyn.calibrated(half), dyn.calibrated(quarter)) == (False, True)
    assert dyn.active == dyn.full
    dyn.eval().set_point(half)
    with pytest.raises(PrecutError, match="this point is not calibrated"):
        dyn(X)


def _two(order: tuple[int, ...], norms: str) -> tuple[DynamicNet, list[Point]]:
    dyn = small(norms)
    points = [dyn.point(0.5, align=4), dyn.point(0.5, align=4, resolution=6)]
    for number in order:
        dyn.set_point(points[number])
    return dyn, [dyn.full, *points]


@pytest.mark.parametrize("norms", ["private_stats", "private"])
def test_a_resumed_run_does_not_depend_on_what_was_looked_at_before(norms, tmp_path):
    data = toy_dataset(train=200, test=50)
    options: dict[str, Any] = {"progress": False, "checkpoint_steps": 3}
    dyn, points = _two((), norms)
    wanted = dyn.fit(data, SHORT, points=points, callbacks=[Crash(0)], **options)
    dyn, points = _two((1, 0), norms)
    with pytest.raises(RuntimeError):
        dyn.fit(data, SHORT, tmp_path / "run", points=points, callbacks=[Crash(4)], **options)
    dyn, points = _two((), norms)
    found = dyn.fit(data, SHORT, tmp_path / "run", points=points, callbacks=[Crash(0)], resume=True, **options)
    assert found.points == wanted.points


def test_a_state_dict_of_other_points_does_not_fit():
    first, points = _two((0,), "private_stats")
    second, _ = _two((1,), "private_stats")
    with pytest.raises(RuntimeError, match="Missing key"):
        second.load_state_dict(first.state_dict())
    third, _ = _two((1, 0), "private_stats")
    both, points = _two((0, 1), "private_stats")
    for point in points[1:]:
        both.recalibrate([point], torch.randn(8, 3, 8, 8))
    third.load_state_dict(both.state_dict())
    x = torch.randn(2, 3, 8, 8)
    for point in points[1:]:
        both.eval().set_point(point)
        third.eval().set_point(point)
        assert torch.equal(both(x), third(x))


@pytest.mark.parametrize("support", ["PS2_P4", None])
def test_supports_that_subnets_share_do_not_move(support):
    model = precut.create_model("resnet8", num_classes=5, input_size=8, width_mult=0.5)
    model = precut.sparsify(model, support) if support else precut.prune(model, "random", 0.3, X)[0]
    dyn = make_dynamic(model, X)
    dyn.prepare([dyn.full])
    with pytest.raises(PrecutError, match="the supports of a dynamic network stay"):
        dyn.fit(toy_dataset(), SHORT, progress=False, callbacks=[MovingSupports("set", every=1)])


class Block(nn.Module):
    def __init__(self, channels: int, join: Any) -> None:
        super().__init__()
        self.c, self.join = nn.Conv2d(channels, channels, 3, padding=1), join

    def forward(self, x: Tensor, *factors: float) -> Tensor:
        branch = self.c(x)
        for factor in factors:
            branch = branch * factor
        return self.join(branch, x)


class Once(nn.Module):
    def __init__(self, join: Any, factors: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.stem, self.block, self.head, self.factors = nn.Conv2d(3, 8, 3), Block(8, join), nn.Linear(8, 5), factors

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x), *self.factors).mean((2, 3)))


@pytest.mark.parametrize(
    ("join", "skippable"),
    [
        (lambda branch, x: torch.add(branch, x, alpha=0.5), False),
        (lambda branch, x: branch.add(x, alpha=2), False),
        (lambda branch, x: x.add(branch, alpha=2), True),
        (lambda branch, x: branch + x, True),
        (lambda branch, x: torch.add(branch, x, alpha=1), True),
    ],
)
@pytest.mark.parametrize("factors", [(), (0.3,)])
def test_a_scaled_shortcut_is_no_identity(join, skippable, factors):
    torch.manual_seed(0)
    model = Once(join, factors).eval()
    x = torch.randn(2, 3, 8, 8)
    dyn = make_dynamic(model, X).eval()
    assert ("block" in dyn.space.blocks) == skippable
    if skippable:
        dyn.set_point(dyn.point(skip=["block"]))
        nn.init.zeros_(model.block.c.weight)
        nn.init.zeros_(model.block.c.bias)
        assert torch.allclose(dyn(x), model(x), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"pretrain": 1}, {"pretrain": 1, "rewind": True}])
def test_a_ladder_begins_with_the_recipes_weights(options):
    data = toy_dataset(train=200, test=50)
    recipe = SHORT.replace(epochs=1, init="kundu", lr=1e-12, weight_decay=0.0)
    model = precut.create_model("resnet8", num_classes=5, input_size=8, width_mult=0.5)
    wanted = copy.deepcopy(model)
    initialise_(wanted, data, recipe, 3)
    options = {"align": 4, "rank": None, **options}
    dyn, _ = train_ladder(model, data, recipe, budgets=[1, 0.5], options=options, progress=False, seed=3)
    for name, tensor in dyn.model.named_parameters():
        assert torch.allclose(tensor, wanted.get_parameter(name), atol=1e-6), name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "sandwhich"}, "unknown mode 'sandwhich': did you mean 'sandwich'"),
        ({"norms": "privat"}, "unknown norms 'privat'"),
        ({"balance": "median"}, "unknown balance"),
        ({"distill": 2}, "distill must be a share"),
        ({"metric": "mac"}, "'mac'"),
        ({"rank": "l3"}, "'l3'"),
        ({"weights": [1, 2, 3]}, "weights needs 2 numbers"),
        ({"align": 0}, "align must be a whole number"),
        ({"floor": -1}, "floor must be"),
        ({"uniform": "no"}, "uniform is true or false; got 'no'"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_epoch(wrong, message, tmp_path):
    model = precut.create_model("resnet8", num_classes=5, input_size=8, width_mult=0.5)
    options = {"pretrain": 1, **wrong}
    with pytest.raises(PrecutError, match=message):
        train_ladder(model, toy_dataset(), SHORT, tmp_path / "run", budgets=[1, 0.5], options=options, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_subnet_of_a_subnet_is_read_again(tmp_path):
    x = torch.zeros(1, 3, 32, 32)
    dyn = make_dynamic(precut.create_model("resnet20", width_mult=0.25).eval(), x)
    first = dyn.extract(dyn.point(skip=["stages.0.0"]), uncalibrated=True)
    again = make_dynamic(first, x)
    second = again.extract(again.point(skip=["stages.2.2"]), uncalibrated=True)
    precut.save(second, tmp_path / "net.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(precut.load(tmp_path / "net.safetensors").eval()(x), second(x))


def test_long_networks_can_be_copied():
    x = torch.zeros(1, 3, 32, 32)
    dyn = make_dynamic(precut.create_model("mobilenetv1", width_mult=0.25).eval(), x)
    dyn.prepare([dyn.full, dyn.point(0.5)])
    twin = copy.deepcopy(dyn)
    x = torch.randn(2, 3, 32, 32)
    for point in dyn.points:
        assert torch.equal(twin.extract(point, uncalibrated=True)(x), dyn.extract(point, uncalibrated=True)(x))
    assert twin.graph.model is twin.model
    assert twin.graph.nodes[3].input.producer is twin.graph.nodes[3].input.producer
    assert {id(node) for node in twin.graph.nodes}.isdisjoint(id(node) for node in dyn.graph.nodes)
    assert twin.graph.values[-1].producer is twin.graph.nodes[-1]
    with torch.no_grad():
        twin.model.get_parameter(next(name for name, _ in twin.model.named_parameters())).zero_()
    assert any(bool(parameter.any()) for parameter in list(dyn.model.parameters())[:1])


class TwoNorms(nn.Module):
    """A norm of the batch alone before one that keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.m = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)
        self.b, self.n, self.o = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.relu(self.n(self.b(F.relu(self.m(self.a(x)))))).mean((2, 3)))


def test_statistics_behind_a_norm_of_the_batch_do_not_depend_on_the_division():
    torch.manual_seed(0)
    net, images = TwoNorms(), torch.randn(12, 3, 8, 8)
    wanted = pooled_statistics(net, [images])
    for size in (6, 3, 1):
        found = pooled_statistics(net, list(images.split(size)))
        assert set(found) == {"n"}
        for one, other in zip(found["n"], wanted["n"], strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.o = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.o(F.relu(self.n(self.a(x if y is None else x + y))).mean((2, 3)))


WRONG = {
    "two inputs": (
        lambda: make_dynamic(Optional(), (X, X)).recalibrate([make_dynamic(Optional(), (X, X)).full], X),
        "knows networks of one input; this one has 2",
    ),
    "an order out of range": (
        lambda: (dyn := small()).permute_({next(iter(dyn.space.widths)): [99] * 8}),
        "must hold 0 to 7 once each",
    ),
    "skip in a list": (lambda: small().point(skip=[["a"]]), "unknown residual block"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case):
    call, message = WRONG[case]
    with pytest.raises(PrecutError, match=message):
        call()


def test_one_point_is_compiled_like_a_list_of_one():
    dyn = small().eval()
    assert torch.allclose(dyn.compile(points=dyn.full, autotune=False)(X), dyn(X), atol=1e-4)
