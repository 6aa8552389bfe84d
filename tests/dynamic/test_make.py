"""What make_dynamic finds, what a point is, and what is refused."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import precut
from dynamic.oracle import images, prepared
from precut.dynamic import DynamicNet, Point, make_dynamic
from precut.errors import PrecutError
from precut.supports import Periodic

X = images(2).float()


def dynamic(name: str = "resnet20", **options: Any) -> DynamicNet:
    return make_dynamic(precut.create_model(name, width_mult=0.5), X, **options)


# ---- what is found -----------------------------------------------------------------------------------------------------


def test_the_blocks_that_can_be_skipped() -> None:
    """Every block with an identity shortcut, known from the papers' figures."""
    assert list(dynamic("resnet20").space.blocks) == [
        f"stages.{s}.{b}" for s, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2))
    ]
    assert list(dynamic("resnet18").space.blocks) == [
        "stages.0.0",
        "stages.0.1",
        "stages.1.1",
        "stages.2.1",
        "stages.3.1",
    ]
    assert len(dynamic("resnet50").space.blocks) == 16 - 4  # the first of each stage changes shape
    assert len(dynamic("mobilenetv2").space.blocks) == 10
    assert len(dynamic("vgg11").space.blocks) == 0
    assert {block.tail for block in dynamic("resnet18").space.blocks.values()} == {"act"}
    assert {block.tail for block in dynamic("mobilenetv2").space.blocks.values()} == {""}


class Odd(nn.Module):
    """Blocks that look like residual ones: a shared one, one whose inside is read outside, one with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.good, self.twice, self.read, self.two = Residual(), Residual(), Leaky(), Two()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.good(self.stem(x))
        x = self.twice(self.twice(x))
        x, inner = self.read(x)
        return self.head(self.two(x, inner))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.PReLU(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.conv(x))


class Leaky(Residual):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        inner = self.conv(x)
        return x + inner, inner


class Two(Residual):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x + self.conv(y)


def test_only_blocks_that_are_nothing_but_residual_can_be_skipped() -> None:
    dyn = make_dynamic(Odd().eval(), X)
    assert list(dyn.space.blocks) == ["good"]
    net = dyn.extract(dyn.point(skip="good"))
    model = dyn.model
    x = model.good.act(model.stem(X))  # the tail stays, with its parameters
    x = model.twice(model.twice(x))
    x, inner = model.read(x)
    assert torch.equal(net(X), model.head(model.two(x, inner)))
    dyn.set_point(dyn.point(skip="good"))
    assert torch.equal(dyn.eval()(X), net(X))


class Basic(nn.Module):
    """A block as most ResNets for CIFAR are written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Sequential()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        out += self.shortcut(x)
        return F.relu(out)


@pytest.mark.parametrize(
    ("stem", "found"),
    [([nn.ReLU()], ["1.0", "1.1"]), ([nn.ReLU(), nn.MaxPool2d(2)], ["1.0", "1.1"]), ([nn.Tanh()], ["1.1"])],
)
def test_blocks_that_end_in_a_function(stem: list[nn.Module], found: list[str]) -> None:
    """Where what comes is never negative, a ReLU alone changes nothing of it."""
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), *stem), nn.Sequential(Basic(), Basic()), nn.Conv2d(4, 2, 1))
    dyn = make_dynamic(net.eval(), X)
    assert list(dyn.space.blocks) == found
    point = dyn.point(skip=found)
    with torch.no_grad():
        for name in found:
            for parameter in net.get_submodule(name).parameters():
                parameter.zero_()
    assert torch.equal(dyn.extract(point)(X), net(X))


def test_layers_that_cannot_be_cut_are_named_with_their_reason() -> None:
    fixed = dynamic("shufflenetv1").space.fixed
    assert "cannot divide" in fixed["stem.0"]
    assert fixed["head"] == "they are an output of the network"
    assert dynamic("resnet18").space.fixed == {"head": "they are an output of the network"}


def test_a_network_in_which_nothing_can_be_cut_is_refused() -> None:
    with pytest.raises(
        PrecutError, match=r"^nothing in this network can be made smaller: layer '0': they are an output of"
    ):
        make_dynamic(nn.Sequential(nn.Conv2d(3, 4, 1)), X)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(PrecutError, match=r"layer '0': conv2d \(1\) cannot divide 3 channels into 2 groups"):
        make_dynamic(net, X)


def test_dims() -> None:
    space = dynamic(dims=("depth",)).space
    assert not space.widths
    assert not space.resizable
    assert space.fixed["stem.0"] == "width is not among dims"
    assert len(space.blocks) == 7


def test_periods() -> None:
    model = precut.sparsify(precut.create_model("speednet", widths=[16, 32, 32]), "PSD4_P8")
    assert {dim.period for dim in make_dynamic(model, X).space.widths.values()} == {8}
    model = precut.sparsify(precut.create_model("speednet", widths=[16, 32, 32]), "2:4", ignored_layers=["groups.2.*"])
    periods = {name: dim.period for name, dim in make_dynamic(model, X).space.widths.items()}
    assert periods["stem"] == 4
    assert periods["groups.1.conv1"] == 4
    assert periods["groups.2.conv1"] == 1


def test_the_model_that_came_is_not_changed() -> None:
    model = precut.create_model("resnet8")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dyn = make_dynamic(model, X)
    dyn.ladder([1, 0.5])
    dyn.train()(X)
    assert model.training
    assert dyn.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ---- points ------------------------------------------------------------------------------------------------------------


def test_points_are_values() -> None:
    dyn = dynamic()
    a = dyn.point(0.5, skip=["stages.1.2", "stages.0.1"], resolution=24)
    b = dyn.point(0.5, skip=["stages.0.1", "stages.1.2"], resolution=24)
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b, dyn.full}) == 2
    assert Point.from_dict(json.loads(a.to_json())) == a
    assert pickle.loads(pickle.dumps(a)) == a
    with pytest.raises(AttributeError):
        a.resolution = 32  # type: ignore[misc]
    # the same network, made again, knows them
    again = dynamic()
    again.prepare([Point.from_dict(a.to_dict())])
    assert again.points == (a,)


def test_numbers_of_numpy_are_plain_numbers_in_points() -> None:
    dyn = nested()
    layer = next(iter(dyn.space.kernels))
    size = np.int64(12)
    made = dyn.point(np.float32(0.5), widths={"stem.0": np.int64(4)}, resolution=size, kss={layer: np.int64(2)})
    assert made == dyn.point(0.5, widths={"stem.0": 4}, resolution=12, kss={layer: 2})
    assert Point.from_dict(json.loads(made.to_json())) == made
    assert json.loads(dyn.point(kss=np.int64(2)).to_json())["kss"]


def test_within() -> None:
    dyn = dynamic()
    small, large = dyn.point(0.25), dyn.point(0.5)
    assert small.within(large)
    assert not large.within(small)
    assert dyn.point(0.5, skip="stages.0.1").within(large)
    assert not large.within(dyn.point(0.5, skip="stages.0.1"))
    assert dyn.point(0.5, resolution=24).within(large)
    assert not large.within(dyn.point(0.5, resolution=24))


def test_names_of_coupled_layers_mean_their_dimension() -> None:
    dyn = dynamic("resnet18")
    assert dyn.point(widths={"stages.0.1.body.3": 8}) == dyn.point(widths={"stem.0": 8})


def sparse() -> DynamicNet:
    return make_dynamic(precut.sparsify(precut.create_model("speednet", widths=[16, 32, 32]), "PSD4_P8"), X)


def nested() -> DynamicNet:
    return make_dynamic(precut.sparsify(precut.create_model("resnet8"), Periodic(4, 4, nested=True)), X)


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: dynamic(dims=["widths"]), "unknown dimension 'widths': did you mean 'width'?"),
    (lambda: make_dynamic(precut.create_model("resnet8"), X, dims=3), "dims is one or several names; got 3"),  # type: ignore[arg-type]
    (lambda: dynamic(norms="shared"), "unknown norms 'shared': choose one of 'private', 'private_stats', 'recalibrated'"),
    (lambda: make_dynamic(nn.Linear, X), "make_dynamic takes an nn.Module; got type <class 'torch.nn.modules.linear.Linear'>"),
    (
        lambda: make_dynamic(dynamic(), X),
        "make_dynamic got a dynamic network; pass the plain one: make_dynamic(dyn.model, ...)",
    ),
    (lambda: dynamic().point(1.5), "width must be a share of the full widths above 0 and at most 1; got 1.5"),
    (lambda: dynamic().point(widths={"stem": 4}), "unknown width dimension 'stem': did you mean 'stem.0'?"),
    (
        lambda: dynamic().point(widths={"head": 4}),
        "the channels of layer 'head' cannot be cut: they are an output of the network",
    ),
    (lambda: dynamic().point(widths=8), "widths is a mapping, {dimension: channels}; got 8"),
    (lambda: dynamic().point(widths={"stem.0": 17}), "the width of 'stem.0' is at most 8; got 17"),
    (lambda: dynamic().point(widths={"stem.0": 0}), "the width of 'stem.0' must be a whole number of at least 1; got 0"),
    (
        lambda: dynamic("resnet18").point(widths={"stem.0": 4, "stages.0.0.body.3": 8}),
        "'stem.0' and 'stages.0.0.body.3' are the same dimension: their channels are coupled",
    ),
    (
        lambda: sparse().point(widths={"groups.1.conv1": 12}),
        "the width of 'groups.1.conv1' must be a multiple of 8, or 32: layer 'groups.1.conv1' has a support of that "
        "period; got 12, the nearest is 16",
    ),
    (lambda: dynamic().point(skip="stages.1.0"), "unknown residual block that can be skipped 'stages.1.0'"),
    (lambda: dynamic().point(skip=1), "skip is one or several names of residual blocks; got 1"),
    (lambda: dynamic("speednet").point(resolution=4), "this network cannot take images of 4 pixels: "),
    (
        lambda: dynamic(dims=["width"]).point(resolution=24),
        "resolution=24: this network's input is no batch of square images, or",
    ),
    (
        lambda: make_dynamic(precut.create_model("resnet8"), X[..., :24]).point(resolution=16),
        "resolution=16: this network's input is no batch of square images, or",
    ),
    (lambda: dynamic().point(kss=2), "kss=2: no layer has nested supports (Periodic(..., nested=True))"),
    (lambda: nested().point(kss={"stem.0": 2}), "unknown layer with nested supports 'stem.0'"),
    (lambda: nested().point(kss=0), "kss must be a whole number of at least 1; got 0"),
    (
        lambda: nested().point(kss={"stages.0.0.body.0": 5}),
        "kss of layer 'stages.0.0.body.0' must be a whole number from 1 to 4; got 5",
    ),
    (lambda: dynamic().set_point(dynamic("resnet18").full), "this point belongs to another network (its space is"),
    (lambda: dynamic().set_point(0.5), "expected a Point (dyn.point(...), dyn.ladder(...)); got float 0.5"),
    (lambda: dynamic().extract("p0"), "expected a Point (dyn.point(...), dyn.ladder(...)); got str 'p0'"),
    (lambda: dynamic().prepare(3), "points is one or several points; got 3"),
    (lambda: dynamic().recalibrate(None, X), "points is one or several points; got None"),
    (lambda: make_dynamic(precut.create_model("resnet8"), torch.zeros(1, 4, 8, 8)), "CifarResNet cannot run on example_inputs"),
    (lambda: dynamic().prepare([]), "prepare got no points; dyn.ladder(...) and dyn.point(...) make some"),
    (lambda: Point.from_dict({"widths": {}}), "a point is a mapping with the fields"),
    (
        lambda: Point.from_dict({**dynamic().full.to_dict(), "widths": {"stem.0": "8"}}),
        "this is no point: {'space':",
    ),
    (lambda: dynamic().fit(None), "fit has no points to train: call dyn.ladder(...) or dyn.prepare([...]) first"),
]  # fmt: skip


@pytest.mark.parametrize(("use", "message"), WRONG)
def test_wrong_uses(use: Callable[[], Any], message: str) -> None:
    with pytest.raises(PrecutError, match=f"^{re.escape(message)}"):
        use()


def test_a_small_point_of_a_nested_support_runs_in_place() -> None:
    dyn = nested()
    point = dyn.point(kss={"stages.0.0.body.0": 2})
    assert dict(point.kss) == {"stages.0.0.body.0": 2}
    assert dyn.point(kss=9) == dyn.full
    assert point.within(dyn.full)
    assert not dyn.full.within(point)
    dyn.set_point(point)
    assert dyn.train()(X).shape == (2, 10)


def test_unstructured_supports_follow_the_network_to_another_dtype_and_back() -> None:
    dyn = prepared(precut.sparsify(precut.create_model("resnet8"), "pSC4"), X.double())
    point = dyn.point(0.5)
    dyn.set_point(point)
    want = dyn.train()(X.double())
    assert torch.allclose(dyn.float()(X), want.float(), atol=1e-2)
    assert torch.equal(dyn.to("cpu").double().train()(X.double()).argmax(1), want.argmax(1))


def test_looking_at_points_leaves_nothing_behind() -> None:
    dyn = dynamic("resnet8", norms="private")
    count = len(dyn.state_dict())
    dyn.extract(dyn.point(0.5), uncalibrated=True)
    points = dyn.ladder([1, 0.5], align=1)
    assert len(dyn.states) == 1
    assert len(dyn.state_dict()) == count + len(dyn.own_tensors(points[1]))
    with pytest.raises(PrecutError, match=r"^this point is not calibrated"):
        dyn.extract(dyn.point(0.75))
