"""A subnet is the whole network with the rest absent: extracted, or run in place, in eval and in training, over every
family of the registry, dense and sparse, and over random networks."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

import precut
from dynamic.oracle import images, masked_run, prepared, random_point, supernet
from graph.nets import Program, close, randomise_
from precut.dynamic import DynamicNet, Point, make_dynamic
from precut.errors import PrecutError
from precut.supports import Periodic

NAMES = precut.list_models()
SUPPORTS = [
    "dense",
    "PSD4_P8",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("PS2_P4", "pSC4", "center_P4")),
]
X = images()


def model_of(name: str, support: str) -> nn.Module:
    if name == "dense_mlp":
        return precut.create_model(name)
    model = precut.create_model(name, width_mult=0.25 if name.endswith(("101", "_10", "_4", "_8", "50_2")) else 0.5)
    return precut.sparsify(model, support)


def check_point(dyn: DynamicNet, point: Point, x: torch.Tensor) -> None:
    dyn.set_point(point)
    # in training: the batch's own statistics
    full = supernet(dyn, point).train()
    want = masked_run(dyn, point, full, x)
    net = dyn.extract(point, uncalibrated=True).train()
    assert close(net(x), want)
    assert close(dyn.train()(x), want)
    # in eval: statistics of this point, measured
    if dyn.states:
        dyn.recalibrate([point], x)
    net = dyn.extract(point)
    want = masked_run(dyn, point, supernet(dyn, point, net).eval(), x)
    assert close(net(x), want)
    assert close(dyn.eval()(x), want)
    assert all(tensor.is_contiguous() for tensor in net.parameters())
    assert not {t.untyped_storage().data_ptr() for t in net.parameters()} & {
        t.untyped_storage().data_ptr() for t in dyn.parameters()
    }


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_subnet_is_the_network_with_the_rest_absent(name: str, support: str) -> None:
    try:
        model = model_of(name, support)
    except PrecutError as error:
        pytest.skip(str(error))  # no layer that this support could take
    x = X if name != "dense_mlp" else X.flatten(1)[:, : next(model.parameters()).shape[1]]
    dyn = prepared(model, x)
    reference = copy.deepcopy(dyn.model)
    assert torch.equal(dyn.eval()(x), reference.eval()(x))  # the full point is the original, bit for bit
    assert torch.equal(dyn.extract(dyn.full)(x), reference(x))
    draw = random.Random(f"{name} {support}")
    for _ in range(2):
        check_point(dyn, random_point(dyn.space, draw), x)


def test_the_oracle_tells_one_channel_too_many() -> None:
    dyn = prepared(precut.create_model("resnet8"), X)
    point, other = dyn.point(widths={"stages.1.0.body.0": 20}), dyn.point(widths={"stages.1.0.body.0": 19})
    want = masked_run(dyn, other, supernet(dyn, other).train(), X)
    assert not close(dyn.extract(point, uncalibrated=True).train()(X), want)


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(s, marks=pytest.mark.slow) for s in range(12, 150))])
def test_random_networks(seed: int) -> None:
    model = Program(seed, 9, mixing=False)
    x = images(3, 4, model.channels[0], seed)
    try:
        dyn = make_dynamic(randomise_(model, seed), x)
    except PrecutError as error:
        assert "nothing in this network can be made smaller" in str(error)  # noqa: PT017
        return
    if any(node.writes for node in dyn.graph.nodes):
        pytest.skip("the oracle does not follow writes in place")
    point = random_point(dyn.space, random.Random(seed))
    want = masked_run(dyn, point, supernet(dyn, point).eval(), x)
    try:
        net = dyn.extract(point, uncalibrated=True)
    except PrecutError as error:  # all that an index tensor picks is gone, and a layer reads nothing else
        assert "no channel would be left of those that an index tensor picks" in str(error)  # noqa: PT017
        assert seed == 30
        return
    assert close(net(x), want)
    dyn.set_point(point)
    for state in dyn.states.values():
        state.calibrated.fill_(True)
    assert close(dyn.eval()(x), want)


@pytest.mark.parametrize("kss", [1, 2, 3, 5])
def test_smaller_kernel_supports_lie_within_larger_ones(kss: int) -> None:
    model = precut.sparsify(precut.create_model("resnet8", width_mult=1.0), Periodic(6, 4, nested=True))
    dyn = prepared(model, X)
    assert set(dyn.space.kernels.values()) == {6}
    point = dyn.point(0.5, kss=kss)
    check_point(dyn, point, X)
    net = dyn.extract(point)
    counts = {m.support.nnz / (m.support.numel / 9) for m in net.modules() if isinstance(m, precut.SparseConv2d)}
    assert counts == {float(kss)}  # every kernel keeps kss weights
    assert all(
        m.support.maker.kss == kss for m in net.modules() if isinstance(m, precut.SparseConv2d)
    )  # the rule stays


@pytest.mark.parametrize("support", ["PSD4_P8", "PS4_P4"])
def test_widths_of_whole_periods_keep_the_rule(support: str) -> None:
    dyn = prepared(precut.sparsify(precut.create_model("speednet", widths=[32, 64, 64]), support), X)
    net = dyn.extract(dyn.point(0.5), uncalibrated=True)
    makers = {str(m.support.maker) for m in net.modules() if isinstance(m, precut.SparseConv2d)}
    assert makers == {support}
    for name, parameter in net.named_parameters():
        if name.endswith("conv2.weight"):
            assert parameter.shape[0] * 2 == dyn.model.get_parameter(name).shape[0]


def test_a_subnet_saves_loads_compiles_and_counts_like_any_network(tmp_path) -> None:
    for name in ("resnet20", "mobilenetv2", "wide_resnet16_4", "speednet"):
        dyn = make_dynamic(precut.create_model(name, width_mult=0.5).eval(), X.float())
        point = dyn.point(0.5, skip=list(dyn.space.blocks)[:1])
        net = dyn.extract(point, uncalibrated=True)
        file = precut.save(net, tmp_path / "subnet.safetensors")
        again = precut.load(file)
        x = X.float()
        assert torch.equal(again(x), net(x))
        fast = precut.compile(net, x, threads=1, autotune=False)
        with torch.no_grad():
            assert torch.allclose(fast(x), net(x), atol=1e-4, rtol=1e-4)
        counts = precut.summary(net, x[:1])
        assert counts.macs < precut.summary(dyn.model, x[:1]).macs / 2
        assert not counts.not_counted


def test_uniform_mobilenetv1_has_the_published_counts() -> None:
    """Howard et al., 2017, table 6 (569 M), and Yu et al., 2019, whose README counts 568, 149 and 41 M."""
    dyn = make_dynamic(
        precut.create_model("mobilenetv1", num_classes=1000, input_size=224), torch.zeros(1, 3, 224, 224)
    )
    macs = {}
    for width in (0.25, 0.5, 1.0):
        net = dyn.extract(dyn.point(width), uncalibrated=True)
        macs[width] = round(precut.summary(net, torch.zeros(1, 3, 224, 224)).macs / 1e6)
    assert macs[0.25] == 41
    assert macs[0.5] in (149, 150)
    assert macs[1.0] in (568, 569)


@pytest.mark.parametrize("side", [24, 40])
def test_resolution(side: int) -> None:
    dyn = prepared(precut.create_model("resnet8"), X)
    point = dyn.point(0.5, resolution=side)
    dyn.set_point(point)
    dyn.recalibrate(point, X)
    small = nn.functional.interpolate(X, size=(side, side), mode="bilinear", antialias=True)
    assert torch.equal(dyn.eval()(X), dyn.extract(point)(small))
    assert torch.equal(dyn(small), dyn(X))
