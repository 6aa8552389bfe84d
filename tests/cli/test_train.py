"""precut train, eval and summary on a dataset of 36 pictures."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import precut as library

SMALL = ("--model", "speednet", "--model-set", "widths=[4,8,8]", "--support", "PS4_P4", "--recipe", "demo")
QUICK = ("--set", "val_count=4", "crop_padding=0", "--epochs", 1, "--batch-size", 10, "--threads", 1)
EPOCHS = 60  # long enough to be stopped in
FILES = {"config.json", "env.json", "metrics.csv", "model.safetensors", "result.json"}


@pytest.fixture
def words(tiny: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("train", *SMALL, *QUICK, "--data", tiny, "--runs-dir", tmp_path / "runs", "--name", "first", "--seed", 7)


def test_train_eval_summary_and_resume(precut, words, tmp_path) -> None:
    done = precut(*words, "--json")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    folder = tmp_path / "runs" / "first"
    assert {file.name for file in folder.iterdir()} >= FILES
    assert row["bytes"] == (folder / "model.safetensors").stat().st_size
    assert any(line.startswith("epoch 1/1") for line in done.err)

    # conv weights by hand: groups of 8-4-4, 4-8-8, 8-8-8 channels, all sparse with 4 of 9; the rest is dense
    sparse = 4 * (8 * 4 + 4 * 4 + 4 * 8 + 8 * 8 + 8 * 8 + 8 * 8)
    dense = (8 * 4 + 8) + 2 * 2 * (4 + 8 + 8) + 2 * 8
    assert row["params"] == sparse + dense
    assert row["params_dense"] == sparse // 4 * 9 + dense
    model = library.load(folder / "model.safetensors")
    assert sum(p.numel() for p in model.parameters()) == row["params"]

    file = folder / "model.safetensors"
    found = json.loads(precut("eval", file, "--json").out)  # the file knows its dataset
    assert found["accuracy"] == row["test_accuracy"]
    assert found["images"] == 12
    text = precut("eval", file, "--split", "train").out
    assert text.startswith(f"{words[words.index('--data') + 1]} train, 24 images: loss ")

    counted = json.loads(precut("summary", file, "--json", "--storage", "--traffic").out)
    assert (counted["params"], counted["macs"]) == (row["params"], row["macs"])
    assert {"storage", "traffic"} <= set(counted)

    refused = precut(*words)
    assert refused.code == 2
    assert refused.err == [
        f"precut: error: {str(folder)!r} holds a finished run: add --resume to go on with it, "
        "--overwrite to begin anew, or choose another --name"
    ]
    other_seed = precut(*words, "--seed", "8", "--resume").err[-1]
    assert other_seed.endswith("; pass the same value, or --overwrite to begin anew")
    assert json.loads(precut(*words, "--resume", "--json").out) == row
    again = json.loads(precut(*words, "--overwrite", "--json").out)
    assert {**again, "seconds": 0} == {**row, "seconds": 0}  # the same seed, the same network

    other = precut("eval", file, "--data", "fashion-mnist-sample", "--split", "tset")
    assert other.err[-1] == "precut: error: unknown split 'tset': did you mean 'test'?"
    assert precut("summary", file, "--support", "dense").code == 0  # the default, said aloud
    assert precut("summary", file, "--support", "PS4_P4").err == [
        f"precut: error: --support is for a model's name; the file {str(file)!r} holds its own form"
    ]


def test_table(precut, words, tmp_path) -> None:
    done = precut(*words)
    assert done.code == 0, done.err
    assert done.out.startswith("SpeedNet: ")
    assert "groups.0.conv1" in done.out
    heads = next(line for line in done.out.splitlines() if line.startswith("run "))
    assert heads.split() == ["run", "file", "validation", "%", "test", "%", "best", "epoch", "training"]


def test_ctrl_c_leaves_a_run_that_the_hint_goes_on_with(precut, words, tmp_path) -> None:
    metrics = tmp_path / "runs" / "first" / "metrics.csv"

    def stop_after_an_epoch() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (metrics.is_file() and len(metrics.read_text().splitlines()) > 1):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    long = [EPOCHS if words[i - 1] == "--epochs" else word for i, word in enumerate(words)]
    watcher = threading.Thread(target=stop_after_an_epoch)
    watcher.start()
    done = precut(*long)
    watcher.join()
    assert done.code == 128 + signal.SIGINT
    assert done.out == ""
    _, hint = done.err[-1].split("; go on with: ")
    assert hint.endswith(" --resume")
    before = len(metrics.read_text().splitlines())
    assert before < EPOCHS
    assert shlex.split(hint)[:2] == ["precut", "train"]
    done = precut(*shlex.split(hint)[1:], "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["best_epoch"] <= EPOCHS
    assert len(metrics.read_text().splitlines()) == EPOCHS + 1
    assert sum(line.startswith("epoch ") for line in done.err) == EPOCHS - (before - 1)


def test_a_name_is_made_of_what_was_asked(precut, tiny, tmp_path) -> None:
    done = precut("train", *SMALL, *QUICK, "--data", tiny, "--runs-dir", tmp_path, "--support", "2:4", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["run"] == str(tmp_path / "speednet-2_4-tiny-s0")


def test_summary_of_a_name(precut) -> None:
    done = precut("summary", "resnet20", "--support", "PSD4_P16", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["params_dense"] == 269_722  # He et al. 2016: 0.27 M, with shortcuts that have no weights
    assert found["params"] < 0.55 * found["params_dense"]
    text = precut("summary", "resnet20", "--support", "PSD4_P16", "--depth", 1, "--storage").out
    assert "total" in text


def test_supports_that_move(precut, words, tmp_path) -> None:
    done = precut(*words, "--move", "rigl", "--move-set", "every=1", "end=1.0", "fraction=0.5", "--json")
    assert done.code == 0, done.err
    fixed = precut(*words, "--json", "--overwrite", "--name", "fixed")
    moved, still = json.loads(done.out), json.loads(fixed.out)
    assert (moved["params"], moved["macs"]) == (still["params"], still["macs"])
    names = ("first", "fixed")
    tables = [library.load(tmp_path / "runs" / name / "model.safetensors").groups[1].conv1.support for name in names]
    assert tables[0].nnz == tables[1].nnz
    assert tables[0] != tables[1]
    assert json.loads((tmp_path / "runs" / "first" / "config.json").read_text())["callbacks"] == [
        {
            "MovingSupports": {
                "rule": "rigl",
                "every": 1,
                "fraction": 0.5,
                "end": 1.0,
                "unit": "auto",
                "period": None,
                "ignored_layers": [],
                "seed": 7,
            }
        }
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--move", "rigel"), "unknown growth rule 'rigel': did you mean 'rigl'?"),
        (("--move-set", "every=3"), "--move-set needs --move RULE (rigl or set)"),
        (("--move", "set", "--move-set", "evry=3"), "unknown option of moving supports 'evry': did you mean 'every'?"),
    ],
)
def test_wrong_moves_begin_no_run(precut, words, tmp_path, given: tuple[str, ...], message: str) -> None:
    done = precut(*words, *given)
    assert (done.code, done.err[-1]) == (2, f"precut: error: {message}")
    assert not (tmp_path / "runs").exists()


def test_other_sizes_than_the_datasets(precut, words, tmp_path) -> None:
    row = json.loads(precut(*words, "--image-size", 16, "--json").out)
    file = tmp_path / "runs" / "first" / "model.safetensors"
    done = precut("eval", file, "--json")
    result = json.loads((file.parent / "result.json").read_text())
    assert json.loads(done.out)["loss"] == pytest.approx(result["test_loss"])
    assert json.loads(done.out)["accuracy"] == row["test_accuracy"]
    assert "bringing the images to 16 pixels, as in training" in done.err


def test_pictures_that_are_not_square(precut, tmp_path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            place = tmp_path / "wide" / split / name
            place.mkdir(parents=True)
            for index in range(12):
                Image.fromarray(random.integers(0, 255, (12, 24), dtype=np.uint8)).save(place / f"{index}.png")
    done = precut("train", *SMALL, *QUICK, "--data", tmp_path / "wide", "--runs-dir", tmp_path / "runs", "--json")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    model = library.load(Path(row["run"]) / "model.safetensors")
    assert row["macs"] == library.measure.summary(model, torch.zeros(1, 1, 12, 24)).macs
    assert row["macs"] > library.measure.summary(model, torch.zeros(1, 1, 12, 12)).macs
    assert precut("eval", Path(row["run"]) / "model.safetensors").code == 0
