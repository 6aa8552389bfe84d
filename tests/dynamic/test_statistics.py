"""Batch-norm statistics: pooled exactly, private where they should be, and never used before they are known."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import precut
from dynamic.oracle import images, prepared
from precut.dynamic import DynamicNet, make_dynamic, pooled_statistics
from precut.errors import PrecutError

X = images(23, 16)


def one_shot(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Running statistics after one training forward of everything, as torch itself keeps them."""
    net = copy.deepcopy(net).train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    net(x)
    return {name: tensor for name, tensor in net.named_buffers() if "running" in name}


@pytest.mark.parametrize("split", [[23], [1] * 23, [5, 5, 13], [22, 1]])
@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "shufflenetv2", "wide_resnet16_4", "speednet"])
def test_pooled_statistics_are_those_of_all_data_at_once(name: str, split: list[int]) -> None:
    net = prepared(precut.create_model(name, width_mult=0.25), X).model
    want = one_shot(net, X)
    found = pooled_statistics(net, X.split(split))
    assert 2 * len(found) == len(want)
    for layer, (mean, variance) in found.items():
        assert (mean - want[f"{layer}.running_mean"]).abs().max() < 1e-10
        assert (variance - want[f"{layer}.running_var"]).abs().max() < 1e-10 * max(1, variance.max())


def test_a_batch_norm_that_runs_twice() -> None:
    norm, conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), norm, conv, norm, nn.Conv2d(4, 2, 1)).double()
    want = one_shot(net, X)
    found = pooled_statistics(net, X.split(7))
    assert list(found) == ["1"]
    assert (found["1"][0] - want["1.running_mean"]).abs().max() < 1e-12
    assert (found["1"][1] - want["1.running_var"]).abs().max() < 1e-12


def test_averaged_variances_would_be_wrong() -> None:
    """What the peers do: with batches of 4 the variance of unit data comes out near 0.75."""
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    averaged = torch.stack([part.var(correction=0) for part in x.split(4)]).mean()
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)).double()
    nn.init.ones_(net[0].weight)
    ((_, variance),) = pooled_statistics(net, x.split(4)).values()
    assert abs(averaged - 0.75) < 0.02
    assert torch.allclose(variance, x.var(), rtol=1e-12)


def dynamic(norms: str = "private_stats") -> DynamicNet:
    return prepared(precut.create_model("resnet8"), X, norms=norms)


def test_an_uncalibrated_point_raises() -> None:
    dyn = dynamic()
    point = dyn.point(0.5)
    dyn.prepare([dyn.full, point])
    dyn.set_point(point)
    dyn.eval()
    message = (
        "this point is not calibrated: the statistics of its batch norms are not known. Train it (dyn.fit), or measure "
        "them: dyn.recalibrate([point], data)"
    )
    for call in (lambda: dyn(X), lambda: dyn.extract(point), lambda: dyn.compile()):
        with pytest.raises(PrecutError, match=f"^{re.escape(message)}$"):
            call()
    assert not dyn.calibrated(point)
    assert dyn.calibrated(dyn.full)
    dyn.recalibrate([point], X)
    assert dyn.calibrated(point)
    assert dyn(X).isfinite().all()


def test_a_network_without_batch_norm_needs_no_calibration() -> None:
    dyn = make_dynamic(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval(), X.float())
    dyn.set_point(dyn.point(0.5))
    assert dyn(X.float()).shape == (23, 2, 14, 14)


@pytest.mark.parametrize("norms", ["private_stats", "private", "recalibrated"])
def test_training_a_point_changes_no_others_statistics(norms: str) -> None:
    dyn = dynamic(norms)
    small, middle = dyn.point(0.25), dyn.point(0.5)
    dyn.prepare([dyn.full, middle, small])
    before = {point: {n: t.clone() for n, t in dyn.own_tensors(point).items()} for point in (small, middle)}
    stats = {n: t.clone() for n, t in dyn.model.named_buffers()}
    dyn.set_point(small)
    dyn.train()(X)
    assert all(torch.equal(t, stats[n]) for n, t in dyn.model.named_buffers())
    assert all(torch.equal(t, before[middle][n]) for n, t in dyn.own_tensors(middle).items())
    changed = [n for n, t in dyn.own_tensors(small).items() if not torch.equal(t, before[small][n])]
    assert any("running_mean" in name for name in changed)
    assert dyn.calibrated(small) == (norms != "recalibrated")
    count = sum(p.numel() for p in dyn.parameters()) - sum(p.numel() for p in dyn.model.parameters())
    subnets = [dyn.extract(point, True) for point in (small, middle)]
    affine = sum(m.num_features * 2 for net in subnets for m in net.modules() if hasattr(m, "num_features"))
    assert count == (affine if norms == "private" else 0)


def test_training_one_point_makes_measured_statistics_of_all_stale() -> None:
    dyn = make_dynamic(precut.create_model("resnet8"), X.float(), norms="recalibrated")
    points = [dyn.point(0.5), dyn.point(0.25)]
    for trained in (dyn.full, points[0]):
        dyn.recalibrate(points, X.float())
        dyn.train().set_point(trained)
        dyn(X.float())
        assert not any(dyn.calibrated(point) for point in points)


def test_a_frozen_norm_stays_frozen_in_subnets() -> None:
    dyn = make_dynamic(precut.create_model("resnet8"), X.float())
    point = dyn.point(0.5)
    dyn.train().set_point(point)
    dyn.model.get_submodule("stem.1").eval()
    before = {name: tensor.clone() for name, tensor in dyn.own_tensors(point).items()}
    dyn(X.float())
    changed = {name for name, tensor in dyn.own_tensors(point).items() if not torch.equal(tensor, before[name])}
    assert "stages.0.0.body.1.running_mean" in changed
    assert not {name for name in changed if name.startswith("stem.1.")}
    assert not dyn.calibrated(point)  # the frozen one's are the full network's
    dyn.train()(X.float())
    assert dyn.calibrated(point)


def test_statistics_move_with_the_network() -> None:
    dyn = dynamic()
    point = dyn.point(0.5)
    dyn.recalibrate(point, X)
    want = dyn.extract(point)(X)
    again = dynamic()
    again.prepare([dyn.full, point])
    again.load_state_dict(dyn.state_dict())
    assert torch.equal(again.extract(point)(X), want)
    dyn.float()
    dyn.set_point(point)
    assert torch.allclose(dyn.eval()(X.float()), want.float(), atol=1e-3)


WRONG = [
    (None, "recalibrate needs data: a Dataset, a tensor of images, or batches of them; got None"),
    ([], "recalibrate needs data: there is no image in what was given"),
    (X[:0], "recalibrate needs data: there is no image in what was given"),
    (
        "cifar10",
        "recalibrate needs data: a Dataset (precut.data.load), a tensor of images, or batches of them; got str "
        "'cifar10'",
    ),
    ([1, 2], "recalibrate needs batches of floating-point images (N, ...); got int"),
    ([X, X / 0], "recalibrate: what reaches batch norm 'stem.1' is not finite; look at the images"),
]


@pytest.mark.parametrize(("data", "message"), WRONG)
def test_recalibration_without_data(data: object, message: str) -> None:
    dyn = dynamic()
    with pytest.raises(PrecutError, match=f"^{re.escape(message)}$"):
        dyn.recalibrate([dyn.point(0.5)], data)
    assert not dyn.calibrated(dyn.point(0.5))


def test_batch_norm_called_as_a_function() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.register_buffer("mean", torch.zeros(8, dtype=torch.float64))
            self.register_buffer("var", torch.ones(8, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(nn.functional.batch_norm(self.conv(x), self.mean, self.var, training=self.training))

    with pytest.raises(PrecutError, match=r"is called as a function: use nn\.BatchNorm2d"):
        pooled_statistics(Net().double(), [X])
    with pytest.raises(PrecutError, match=r"is called as a function: use nn\.BatchNorm2d"):
        make_dynamic(Net().double(), X)


@pytest.mark.parametrize("tracked", [False, True])
def test_running_statistics_of_another_norm(tracked: bool) -> None:
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=tracked)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), norm, nn.Conv2d(8, 2, 1))
    if tracked:
        with pytest.raises(PrecutError, match=r"keeps running statistics, .*: pass track_running_stats=False"):
            make_dynamic(net, X)
    else:
        assert make_dynamic(net, X).point(0.5)
