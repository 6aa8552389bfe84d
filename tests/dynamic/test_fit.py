"""Joint training: learns, resumes bit for bit, keeps its statistics modes, and leaves files that can be loaded."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import precut
from precut.dynamic import DynamicNet, Point, load, make_dynamic, train_ladder
from precut.dynamic._calibrate import pooled_statistics
from precut.dynamic._metrics import cost
from precut.errors import PrecutError
from precut.training import evaluate
from training.toy import RECIPE, Crash, toy_dataset

DATA = toy_dataset(train=400, test=100)
EASY = RECIPE.replace(epochs=4, lr=0.1, batch_size=50, val_count=50, average="none", label_smoothing=0.0)


def network(norms: str = "private_stats", seed: int = 0) -> DynamicNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = precut.create_model("resnet8", num_classes=5, input_size=8)
    dyn = make_dynamic(model, torch.zeros(1, 3, 8, 8), norms=norms)
    dyn.prepare([dyn.full, dyn.point(0.7, align=4), dyn.point(0.5, align=4)])
    return dyn


@pytest.mark.parametrize("norms", ["private_stats", "private", "recalibrated"])
def test_every_point_learns(norms: str) -> None:
    dyn = network(norms)
    result = dyn.fit(DATA, EASY, progress=False, distill=0.5, calibration_images=200)
    assert [row["macs"] for row in result.points] == sorted((row["macs"] for row in result.points), reverse=True)
    assert all(row["test_accuracy"] > 0.6 for row in result.points)  # one in five by chance
    assert all(dyn.calibrated(point) for point in dyn.points)
    for point, row in zip(dyn.points, result.points, strict=True):
        assert evaluate(dyn.extract(point), "test", DATA)[1] == pytest.approx(row["test_accuracy"])
    assert dyn.active == dyn.full
    mean = [evaluate(dyn.extract(point), DATA.split_validation(count=50, seed=0)[1], DATA)[1] for point in dyn.points]
    assert result.run.val_accuracy == pytest.approx(sum(mean) / 3)


def test_recalibrated_statistics_are_those_of_the_final_weights() -> None:
    dyn = network("recalibrated")
    dyn.fit(DATA, EASY.replace(epochs=1), progress=False, calibration_images=100)
    small = dyn.extract(dyn.points[-1])
    images = next(iter(precut.data.BatchLoader(DATA.train, 100, DATA.mean, DATA.std)))[0]
    for name, (mean, _) in pooled_statistics(small, [images]).items():
        assert torch.allclose(small.get_submodule(name).running_mean, mean, atol=1e-6)


@pytest.mark.parametrize("options", [{"mode": "sandwich", "sampled": 1}, {"distill": 1.0, "balance": "mean"}])
def test_a_crash_changes_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    recipe = RECIPE.replace(epochs=2, batch_size=50)
    whole = network()
    result = whole.fit(DATA, recipe, tmp_path / "whole", progress=False, **options)
    with pytest.raises(RuntimeError, match="crash"):
        network().fit(
            DATA, recipe, tmp_path / "run", progress=False, callbacks=[Crash(8)], checkpoint_steps=3, **options
        )
    again = network()
    resumed = again.fit(
        DATA, recipe, tmp_path / "run", progress=False, callbacks=[Crash(0)], checkpoint_steps=3, resume=True, **options
    )
    assert resumed.points == result.points
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_another_ladder_does_not_resume(tmp_path: Path) -> None:
    network().fit(DATA, EASY.replace(epochs=1), tmp_path, progress=False)
    other = network()
    other.prepare([other.full, other.point(0.5), other.point(0.25)])
    with pytest.raises(PrecutError, match=r"^cannot resume .*: model\.crc32 is"):
        other.fit(DATA, EASY.replace(epochs=1), tmp_path, progress=False, resume=True)


def test_the_file_is_the_whole_network(tmp_path: Path) -> None:
    dyn = network("private")
    result = dyn.fit(DATA, EASY.replace(epochs=1), tmp_path, progress=False)
    file = tmp_path / "model.safetensors"
    again = load(file)
    x = torch.randn(4, 3, 8, 8)
    assert again.points == dyn.points
    assert again.norms == "private"
    for point in dyn.points:
        dyn.set_point(point)
        again.set_point(point)
        # The trained weights lie channels last, the loaded ones do not: they round differently.
        assert torch.allclose(dyn.eval()(x), again(x), atol=1e-5)
    full = precut.load(file)  # the full network, as a plain one
    assert type(full) is type(dyn.model)
    dyn.set_point(dyn.full)
    assert torch.allclose(full(x), dyn(x), atol=1e-5)
    assert json.loads((tmp_path / "points.json").read_text()) == result.points
    alone = sum(len(precut.save(dyn.extract(p), tmp_path / "p.safetensors").read_bytes()) for p in dyn.points)
    assert file.stat().st_size < 0.75 * alone


def test_a_sparse_dynamic_network_in_a_file(tmp_path: Path) -> None:
    model = precut.sparsify(precut.create_model("speednet", widths=[16, 32, 32]), "PSD4_P8")
    x = torch.randn(2, 3, 32, 32)
    dyn = make_dynamic(model, x)
    dyn.ladder([1, 0.5, 0.3])
    dyn.recalibrate(dyn.points[1:], x)
    again = load(dyn.save(tmp_path / "d.safetensors", {"accuracy": [1, 2, 3]}))
    assert precut.checkpoint.read_spec(tmp_path / "d.safetensors")["extra"]["accuracy"] == [1, 2, 3]
    for point in dyn.points:
        assert torch.equal(again.extract(point)(x), dyn.extract(point)(x))


def test_files_that_are_none(tmp_path: Path) -> None:
    file = precut.save(precut.create_model("resnet8"), tmp_path / "plain.safetensors")
    with pytest.raises(
        PrecutError, match=r"holds a plain network: precut\.load reads it, make_dynamic makes it dynamic$"
    ):
        load(file)


def test_the_whole_way(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = precut.create_model("resnet8", num_classes=5, input_size=8)
    options = {"pretrain": 1, "align": 4, "rank": "taylor", "distill": 0.3, "norms": "private"}
    budgets = [1, 0.5, 0.3]
    run = {"progress": False, "seed": 1}
    dyn, result = train_ladder(model, DATA, EASY.replace(epochs=1), tmp_path, budgets=budgets, options=options, **run)
    assert len(result.points) == 3
    assert (tmp_path / "full" / "result.json").is_file()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = precut.create_model("resnet8", num_classes=5, input_size=8)
    again, same = train_ladder(
        model, DATA, EASY.replace(epochs=1), tmp_path, budgets=budgets, options=options, resume=True, **run
    )
    assert same.points == result.points
    assert again.points == dyn.points
    with pytest.raises(
        PrecutError, match=r"^unknown option of a dynamic training 'pretrained': did you mean 'pretrain'"
    ):
        train_ladder(model, DATA, EASY, budgets=[1, 0.5], options={"pretrained": 1})


def test_a_ladder_by_measured_cost_goes_on_with_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = {"factor": 0.9}

    def measured(dyn: DynamicNet, point: Point, metric: Any, threads: int | None = 1) -> float:
        return cost(dyn, point, "macs") * (1 if point == dyn.full else noise["factor"])

    monkeypatch.setattr("precut.dynamic._ladder.cost", measured)
    run: dict[str, Any] = {"budgets": [1, 0.6], "checkpoint_steps": 3, "progress": False}
    run["options"] = {"metric": "latency", "align": 4}
    first, recipe = network().model, EASY.replace(epochs=1)
    with pytest.raises(RuntimeError, match="crash"):
        train_ladder(copy.deepcopy(first), DATA, recipe, tmp_path, callbacks=[Crash(5)], **run)
    noise["factor"] = 1.3
    dyn, result = train_ladder(copy.deepcopy(first), DATA, recipe, tmp_path, callbacks=[Crash(0)], resume=True, **run)
    noise["factor"] = 0.9
    whole, uninterrupted = train_ladder(copy.deepcopy(first), DATA, recipe, callbacks=[Crash(0)], **run)
    assert dyn.points == whole.points
    assert result.points == uninterrupted.points
    with pytest.raises(
        PrecutError, match=r"^cannot resume .*: budgets is \[1\.0, 0\.5\] here, but the run began with \["
    ):
        train_ladder(first, DATA, recipe, tmp_path, resume=True, **{**run, "budgets": [1, 0.5]})
    rewound = {**run, "options": {**run["options"], "rewind": True}}
    with pytest.raises(PrecutError, match=r"^cannot resume .*: rewind is True here, but the run began with False; "):
        train_ladder(first, DATA, recipe, tmp_path, resume=True, **rewound)


def test_points_that_a_sandwich_has_not_drawn_yet_are_judged() -> None:
    dyn = network()
    dyn.prepare([dyn.full, *(dyn.point(share, align=1) for share in (0.8, 0.7, 0.6, 0.5))])
    result = dyn.fit(DATA, EASY.replace(epochs=1, batch_size=350), progress=False, mode="sandwich", sampled=1)
    assert len(result.points) == 5  # two of the three inner ones were not drawn in the only step
    assert all(dyn.calibrated(point) for point in dyn.points)


def test_the_largest_point_comes_first() -> None:
    for options, needs in (({"distill": 0.5}, "distill"), ({"mode": "sandwich"}, "mode='sandwich'")):
        dyn = network()
        message = f"{needs} needs the largest point first, which all others lie within; point 1 does not"
        with pytest.raises(PrecutError, match=f"^{message}"):
            dyn.fit(DATA, EASY, progress=False, points=dyn.points[::-1], **options)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"mode": "random"}, "unknown mode 'random'"),
    ({"balance": "max"}, "unknown balance 'max': did you mean 'mean'?"),
    ({"distill": 2}, "distill must be a share of the loss from 0 to 1; got 2"),
    ({"weights": [1, 1]}, "weights needs 3 numbers above 0, one for each point; got [1, 1]"),
    ({"weights": [1, 1, 0]}, "weights needs 3 numbers above 0, one for each point; got [1, 1, 0]"),
    ({"mode": "sandwich", "sampled": 0}, "sampled=0 never trains 1 of the points, whose norms='private_stats' need it"),
    ({"weights": 2}, "weights needs 3 numbers above 0, one for each point; got 2"),
    ({"weights": [1, 1, float("inf")]}, "weights needs 3 numbers above 0, one for each point; got [1, 1, inf]"),
    ({"distil": 0.5}, "unknown option of fit 'distil': did you mean 'distill'?"),
    ({"seed": "a"}, "seed must be a whole number of at least 0; got 'a'"),
    ({"points": 3}, "points is one or several points; got 3"),
    ({"sampled": -1}, "sampled must be a whole number of at least 0; got -1"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_uses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PrecutError, match=f"^{re.escape(message)}"):
        network().fit(DATA, EASY, progress=False, **options)


def test_no_dataset() -> None:
    with pytest.raises(PrecutError, match=r"^fit needs a Dataset \(precut\.data\.load\); got NoneType None"):
        network().fit(None)


@pytest.mark.parametrize(("share", "layout"), [(0.5, torch.channels_last), (0.25, torch.contiguous_format)])
def test_narrow_strided_shortcuts_do_not_train_channels_last(share: float, layout: torch.memory_format) -> None:
    """On a CPU with AVX2 torch would write past the end of their gradients. (With 4 channels the smaller one has some.)"""
    model = precut.create_model("resnet8", num_classes=5, input_size=8).to(memory_format=torch.channels_last)
    dyn = make_dynamic(model, torch.zeros(1, 3, 8, 8))
    dyn.prepare([dyn.full, dyn.point(share)])
    seen: list[torch.Tensor] = []
    dyn.register_forward_pre_hook(lambda module, given: seen.append(given[0]) if module.training else None)
    dyn.fit(DATA, EASY.replace(epochs=1, batch_size=100), progress=False)
    held = [*seen, dyn.model.get_parameter("stages.0.0.body.0.weight")]
    assert all(tensor.is_contiguous(memory_format=layout) for tensor in held)
    assert len(held) > 2
