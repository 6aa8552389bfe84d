import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import precut
from precut.data import Split
from precut.errors import PrecutError
from precut.training import Callback, TrainState, evaluate, initialise_
from precut.training._state import read_tree
from training.toy import RECIPE, run, same, toy_dataset, toy_model, weights

CHECKPOINTS = ("state.safetensors", "best.safetensors", "model.safetensors")


def test_a_whole_run(tmp_path: Path) -> None:
    model, result = run(tmp_path / "run", recipe=RECIPE.replace(epochs=6))
    folder = tmp_path / "run"
    assert sorted(f.name for f in folder.iterdir() if f.is_file()) == sorted(
        [*CHECKPOINTS, "clock.json", "config.json", "env.json", "metrics.csv", "result.json"]
    )
    assert result.test_accuracy > 0.5
    assert (result.test_loss, result.test_accuracy) == evaluate(model, "test", toy_dataset(), batch_size=80)
    rows = result.history
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert (result.best_epoch, result.val_accuracy) == (best["epoch"], best["val_accuracy"])
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in rows), abs=1e-3)
    with (folder / "metrics.csv").open() as file:
        kept = list(csv.DictReader(file))
    assert [{key: float(value) for key, value in row.items()} for row in kept] == rows
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"] == RECIPE.replace(epochs=6).to_dict()
    assert (config["seed"], config["threads"], config["precision"]) == (0, 1, "32-true")
    assert json.loads((folder / "env.json").read_text())["versions"]["torch"] == torch.__version__
    assert json.loads((folder / "result.json").read_text())["test_accuracy"] == result.test_accuracy
    loaded = precut.load(folder / "model.safetensors", toy_model(seed=1))
    assert same(weights(loaded), weights(model))


def test_the_model_ends_with_the_best_epochs_weights(tmp_path: Path) -> None:
    """The last epochs are spoiled on purpose: their weights must not be the result."""

    class Spoil(Callback):
        def on_step_end(self, state: TrainState) -> None:
            if state.epoch >= 2:
                with torch.no_grad():
                    state.model[6].weight.zero_()  # type: ignore[index, union-attr, operator]

    recipe = RECIPE.replace(epochs=4, average="none")
    model, result = run(None, recipe=recipe, callbacks=[Spoil()])
    assert result.best_epoch <= 2
    assert model[6].weight.abs().max() > 0  # type: ignore[index, union-attr, operator]
    _, val = toy_dataset().split_validation(count=30, seed=0)
    assert evaluate(model, val, toy_dataset(), batch_size=80) == (result.val_loss, result.val_accuracy)


def test_what_a_callback_changed_goes_back_to_the_best_epoch(tmp_path: Path) -> None:
    """Something that is in no state_dict of the model, like a support that moves."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = toy_model()
            self.factor = 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * self.inner(x)

    class Fade(Callback):
        """From the third epoch on the logits get the wrong sign."""

        def on_fit_start(self, state: TrainState) -> None:
            self.model: Any = state.model

        def on_step_end(self, state: TrainState) -> None:
            self.model.factor = 1.5 if state.epoch < 2 else -1.0

        def state_dict(self) -> dict[str, Any]:
            return {"factor": self.model.factor}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.model.factor = state["factor"]

    model, result = run(tmp_path, Scaled(), recipe=RECIPE.replace(average="none"), callbacks=[Fade()])
    assert result.best_epoch <= 2
    assert model.factor == 1.5
    fresh, again = run(tmp_path, Scaled(), recipe=RECIPE.replace(average="none"), callbacks=[Fade()], resume=True)
    assert again == result
    assert fresh.factor == 1.5


def test_without_validation_the_last_epoch_counts() -> None:
    _, result = run(None, recipe=RECIPE.replace(val_count=0))
    assert result.best_epoch == 3
    assert result.val_accuracy is None
    assert result.history[-1]["val_loss"] is None


def test_labels_of_the_test_split_change_no_byte_of_a_checkpoint(tmp_path: Path) -> None:
    dataset = toy_dataset()
    shuffled = dataset.test.labels[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    other = dataclasses.replace(dataset, test=Split(dataset.test.images, shuffled, dataset.test.name))
    _, one = run(tmp_path / "one", dataset=dataset)
    _, two = run(tmp_path / "two", dataset=other)
    assert one.test_accuracy != two.test_accuracy
    for name in (*CHECKPOINTS, "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_labels_of_the_validation_images_do(tmp_path: Path) -> None:
    """The control for the test above: it would notice if there were something to notice."""
    dataset = toy_dataset()
    labels = dataset.train.labels.flip(0)
    other = dataclasses.replace(dataset, train=Split(dataset.train.images, labels, dataset.train.name))
    run(tmp_path / "one", dataset=dataset)
    run(tmp_path / "two", dataset=other)
    assert (tmp_path / "one" / CHECKPOINTS[0]).read_bytes() != (tmp_path / "two" / CHECKPOINTS[0]).read_bytes()


def test_seed_and_only_the_seed_decides() -> None:
    torch.manual_seed(1)
    first, one = run(None)
    torch.manual_seed(2)
    again, two = run(None)
    other, _ = run(None, seed=1)
    assert same(weights(first), weights(again))
    assert [row["train_loss"] for row in one.history] == [row["train_loss"] for row in two.history]
    assert not same(weights(first), weights(other))


def test_the_callers_settings_come_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    run(None, threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("checkpoint_steps", [None, 1])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, checkpoint_steps: int | None) -> None:
    class Poison(Callback):
        def on_step_end(self, state: TrainState) -> None:
            if state.step == 7:
                with torch.no_grad():
                    state.model[0].weight[0, 0, 0, 0] = float("nan")  # type: ignore[index]

    model = toy_model()
    with pytest.raises(PrecutError) as caught:
        run(tmp_path, model, callbacks=[Poison()], checkpoint_steps=checkpoint_steps)
    last = 5 if checkpoint_steps is None else 6
    what = "loss" if checkpoint_steps is None else "weight '0.weight'"
    assert str(caught.value).startswith(f"the {what} is not finite at epoch 2, step 7 (learning rate 0.0")
    assert str(caught.value).endswith(
        f"; the last good checkpoint is {str(tmp_path / 'state.safetensors')!r} (step {last}). "
        "Try a lower lr, a longer warmup, or grad_clip"
    )
    kept = read_tree(tmp_path / "state.safetensors")
    assert kept["step"] == last
    assert all(torch.isfinite(tensor).all() for tensor in kept["model"].values())
    assert not (tmp_path / "result.json").exists()


def test_a_rate_that_is_far_too_high() -> None:
    with pytest.raises(
        PrecutError, match=r"is not finite at epoch 1, step \d+ .* nothing is saved, since there is no run_dir"
    ):
        run(None, recipe=RECIPE.replace(lr=1e30, warmup=0.0))


def test_other_wrong_uses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    stateful = toy_model()
    stateful[3] = Stateful()
    for options, message in (
        ({"resume": True}, "fit got resume=True without a run_dir"),
        ({"overwrite": True}, "fit got overwrite=True without a run_dir"),
        ({"threads": 0}, "fit got threads=0; expected at least 1, or None for torch's current number"),
        ({"checkpoint_steps": 0}, "fit got checkpoint_steps=0; expected at least 1, or None"),
        ({"device": "gpu"}, "unknown device 'gpu': expected 'cpu', 'cuda', 'cuda:1' or 'mps'"),
        ({"device": "meta"}, "device='meta' cannot train: expected 'cpu', 'cuda', 'cuda:1' or 'mps'"),
        ({"precision": "fp16"}, "unknown precision 'fp16': choose one of '32-true', 'auto', 'bf16-mixed'"),
        (
            {"recipe": RECIPE.replace(batch_size=500, drop_last=True)},
            "recipe batch_size=500 with drop_last leaves no batch: there are 100 training images; use a smaller batch",
        ),
        (
            {"model": stateful},
            "the model's state holds '3._extra_state', a dict; only tensors can be checkpointed",
        ),
        (
            {"model": nn.Sequential(nn.Flatten(), nn.Linear(192, 10))},
            "the model gave (20, 10) for 20 images of 5 classes; expected (20, 5): create it with num_classes=5",
        ),
    ):
        with pytest.raises(PrecutError) as caught:
            run(None, **options)
        assert str(caught.value) == message
    with pytest.raises(PrecutError) as caught:
        run(tmp_path / "file")
    assert str(caught.value) == f"run_dir {str(tmp_path / 'file')!r} is a file; expected a folder"


class Stateful(nn.Identity):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without CUDA")
def test_no_cuda() -> None:
    with pytest.raises(PrecutError) as caught:
        run(None, device="cuda")
    assert str(caught.value) == "device='cuda', but torch finds no CUDA device here; use device='cpu'"


def test_bfloat16_trains(tmp_path: Path) -> None:
    _, result = run(tmp_path, recipe=RECIPE.replace(precision="bf16-mixed", epochs=6))
    exact = run(None, recipe=RECIPE.replace(epochs=6))[1]
    assert result.test_accuracy > 0.5
    assert result.history[-1]["train_loss"] != exact.history[-1]["train_loss"]
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "bf16-mixed"


def test_gradients_are_clipped() -> None:
    seen = []

    class Look(Callback):
        def on_step_end(self, state: TrainState) -> None:
            norms = [p.grad.norm() for p in state.model.parameters() if p.grad is not None]
            seen.append(torch.stack(norms).norm().item())

    run(None, recipe=RECIPE.replace(grad_clip=0.01), callbacks=[Look()])
    assert seen == pytest.approx([0.01] * 15, rel=1e-3)


def test_whitened_and_kundu_beginnings() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    class Look(Callback):
        def on_fit_start(self, state: TrainState) -> None:
            seen.append(weights(state.model))

    recipe = RECIPE.replace(epochs=1, init="kundu")
    run(None, recipe=recipe, callbacks=[Look()])
    assert torch.equal(seen[0]["1.weight"], torch.full((8,), 0.5))
    bound = 0.5 * (6 / (9 * (8 + 3))) ** 0.5
    assert 0.9 * bound < seen[0]["0.weight"].abs().max() <= bound
    assert seen[0]["6.weight"].std().item() == pytest.approx(0.01, rel=0.3)
    assert not seen[0]["0.bias"].any()

    model = precut.create_model("speednet", num_classes=5, input_size=9, widths=[8, 8, 8])
    stem = model.stem.weight.detach().clone()  # type: ignore[union-attr, operator]
    dataset = toy_dataset()
    wide = dataclasses.replace(
        dataset,
        train=Split(nn.functional.pad(dataset.train.images, (0, 1, 0, 1)), dataset.train.labels, "wide"),
        test=Split(nn.functional.pad(dataset.test.images, (0, 1, 0, 1)), dataset.test.labels, "wide"),
    )
    run(None, model, dataset=wide, recipe=RECIPE.replace(epochs=1, whiten=True), callbacks=[Look()])
    filters = seen[1]["stem.weight"]
    assert not torch.equal(filters, stem)
    torch.testing.assert_close(filters[:12], -filters[12:])


def test_what_is_scored_is_what_is_trained() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    class Look(Callback):
        def on_fit_start(self, state: TrainState) -> None:
            seen.append(weights(state.model))

    recipe, dataset = RECIPE.replace(epochs=1, init="kundu"), toy_dataset()
    run(None, recipe=recipe, callbacks=[Look()])
    model = toy_model()
    kept = initialise_(model, dataset, recipe, seed=0)
    assert kept == recipe.replace(init="model")
    assert torch.equal(model[0].weight, seen[0]["0.weight"])
    pruned, report = precut.prune(model, "magnitude", 0.5, torch.zeros(1, *dataset.image_shape))
    run(None, pruned, recipe=kept, callbacks=[Look()])
    mask = report.masks()["0"]
    assert torch.equal(seen[1]["0.weight"].flatten(), model[0].weight.detach()[mask])


def test_the_accuracy_of_mirrored_images_is_reported_apart() -> None:
    model, result = run(None, recipe=RECIPE.replace(test_flip=True))
    assert result.test_accuracy_flip == evaluate(model, "test", toy_dataset(), flip=True)[1]
    assert result.test_accuracy == evaluate(model, "test", toy_dataset())[1]
