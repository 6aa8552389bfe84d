"""Real candidates of a search, and saved models as points: small networks, small images, one epoch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import precut
from precut import PrecutError
from precut.deadline import load_targets
from precut.deadline._candidate import Halved, Measured, Rejected, build, check_settings, evaluate
from precut.layers import SparseLayer
from precut.training import load_recipe

SETTINGS = {
    "data": "fashion-mnist-sample",
    "per_class": 12,
    "recipe": "demo",
    "changes": {"epochs": 2, "batch_size": 20, "val_count": 40},
    "timing_rounds": 5,
}


def ignore(fraction: float, value: float) -> None:
    pass


@pytest.fixture(scope="module")
def sample():
    return precut.data.load("fashion-mnist-sample").take(2)


@pytest.mark.parametrize(
    ("choices", "density"),
    [
        ({}, 1.0),
        ({"support": "PS4_P4"}, 4 / 9),
        ({"density": 0.3}, 0.3),
        ({"support": "magnitude 0.5"}, 0.5),
        ({"support": "dense", "density": 1.0, "width_mult": 0.5}, 1.0),
    ],
)
def test_what_a_candidate_is(sample, choices, density):
    model = build({"model": "resnet8", **choices}, sample, load_recipe("demo"), seed=0)[0]
    kept = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, SparseLayer))
    dense = sum(math.prod(layer.dense_shape) for layer in model.modules() if isinstance(layer, SparseLayer))
    assert (kept > 0) == (density < 1)
    if density < 1:
        assert kept / dense == pytest.approx(density, abs=0.03)
    again = build({"model": "resnet8", **choices}, sample, load_recipe("demo"), seed=0)[0]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_two_ways_of_taking_weights_away_do_not_go_together(sample):
    with pytest.raises(Rejected, match=r"support PS4_P4 and density 0.3 both take weights away"):
        build({"model": "resnet8", "support": "PS4_P4", "density": 0.3}, sample, load_recipe("demo"), seed=0)
    with pytest.raises(Rejected, match="is neither a support nor a score with the share that it keeps"):
        build({"model": "resnet8", "support": "synflow some"}, sample, load_recipe("demo"), seed=0)


def test_a_candidate_is_timed_trained_and_goes_on(tmp_path):
    told: list[tuple[float, float]] = []
    candidate = {"model": "resnet8", "width_mult": 0.25, "resolution": 16}

    def stop(fraction: float, value: float) -> None:
        told.append((fraction, value))
        if fraction:
            raise Halved("enough")

    with pytest.raises(Halved):
        evaluate(candidate, SETTINGS, tmp_path, stop)
    assert [fraction for fraction, _ in told] == [0.0, 0.5]
    assert told[0][1] > 0
    told.clear()
    # On a machine that times with other threads, training goes on with those that it began with.
    settings = {**SETTINGS, "threads": 2}
    found = evaluate(candidate, settings, tmp_path, lambda fraction, value: told.append((fraction, value)))
    assert isinstance(found, Measured)
    assert 0 < found.seconds <= told[0][1]
    assert 0 <= found.accuracy <= 1
    assert (
        found.facts["params"]
        == precut.summary(precut.load(tmp_path / "model.safetensors"), torch.zeros(1, 1, 16, 16)).params
    )
    assert (
        evaluate(candidate, SETTINGS, tmp_path, ignore).accuracy == found.accuracy
    )  # finished: nothing is trained again
    # the model of a search takes the images that a service has, and brings them to its own size
    targets, example = load_targets([tmp_path], "fashion-mnist-sample", split="test", batch=3)
    assert example.shape == (3, 1, 28, 28)
    assert targets[0].run(example).shape == (3, 10)
    assert targets[0].accuracy == sum(targets[0].correct) / len(targets[0].correct)
    with pytest.raises(PrecutError, match="so which images of 'fashion-mnist-sample' it did not see is not known"):
        load_targets([tmp_path], "fashion-mnist-sample")


def test_what_cannot_be_built_is_rejected(tmp_path):
    with pytest.raises(Rejected, match="unknown model 'resnet9'"):
        evaluate({"model": "resnet9"}, SETTINGS, tmp_path, ignore)
    with pytest.raises(Rejected, match="PS99"):
        evaluate({"model": "resnet8", "support": "PS99"}, SETTINGS, tmp_path, ignore)


def test_images_are_made_smaller_by_as_many_threads_as_asked_for(tmp_path, monkeypatch):
    """Not by the process's: --threads 1 beside a busy neighbour took 40 times as long for the resizing alone."""
    resize = torch.nn.functional.interpolate
    seen = []

    def watched(*given, **options):
        seen.append(torch.get_num_threads())
        return resize(*given, **options)

    evaluate({"model": "resnet8", "width_mult": 0.25, "resolution": 16}, SETTINGS, tmp_path, ignore)
    monkeypatch.setattr(torch.nn.functional, "interpolate", watched)
    before = torch.get_num_threads()
    load_targets([tmp_path], "fashion-mnist-sample", split="test", threads=before + 1)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_settings_with_which_nothing_could_be_trained(tmp_path):
    check_settings(SETTINGS)
    without = {**SETTINGS, "changes": {"val_count": 0}}
    for ask in (lambda: check_settings(without), lambda: evaluate({"model": "resnet8"}, without, tmp_path, ignore)):
        with pytest.raises(PrecutError, match="the recipe holds out none: --set val_count=N"):
            ask()
    with pytest.raises(PrecutError, match="cannot hold out count=120 of the 120 images"):
        check_settings({**SETTINGS, "changes": {"val_count": 120}})
    with pytest.raises(PrecutError, match="no-such-data"):
        check_settings({**SETTINGS, "data": "no-such-data"})


def test_accuracy_is_that_of_the_held_out_images(tmp_path):
    """As training measured it: the same images, in float32."""
    data = precut.data.load("fashion-mnist-sample")
    model = precut.create_model("resnet8", width_mult=0.25, input_size=28, in_channels=1)
    held_out = len(data.train) - 100
    changes = {"epochs": 1, "batch_size": 50, "val_count": held_out, "precision": "32-true"}
    recipe = precut.training.load_recipe("demo", **changes)
    result = precut.training.fit(model, data, recipe, run_dir=tmp_path / "run", progress=False)
    (target,), example = load_targets([tmp_path / "run"])
    assert len(target.correct) == held_out
    assert target.accuracy == pytest.approx(result.val_accuracy, abs=0.003)  # an image may sit on the fence
    assert target.name == "run"
    assert example.shape == (1, 1, 28, 28)
    copy = Path(tmp_path / "other.safetensors")
    copy.write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    assert [one.name for one in load_targets([tmp_path / "run", copy])[0]] == ["run", "other"]
    with pytest.raises(PrecutError, match="two models are named 'run'"):
        load_targets([tmp_path / "run", tmp_path / "run" / "model.safetensors"])


def test_models_of_different_data_are_not_judged_together(tmp_path):
    files = []
    for name, classes in (("fashion-mnist-sample", 10), ("mnist", 10), ("fashion-mnist-sample", 7)):
        net = precut.create_model("resnet8", width_mult=0.25, input_size=28, in_channels=1, num_classes=classes)
        files.append(precut.save(net, tmp_path / f"{name}{classes}.safetensors", extra={"dataset": name}))
    with pytest.raises(PrecutError, match=r"were trained on different data .*name the data to judge them by"):
        load_targets(files[:2], split="test")
    with pytest.raises(PrecutError, match=r"the model gave \(1, 7\) for 1 images of 10 classes"):
        load_targets(files[2:], split="test")
