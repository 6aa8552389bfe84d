"""precut train --dynamic on a dataset of 36 pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from precut.dynamic import load

SMALL = ("--model", "speednet", "--model-set", "widths=[8,16,16]", "--support", "PS4_P4", "--recipe", "demo")
QUICK = ("--set", "val_count=4", "crop_padding=0", "--epochs", 1, "--batch-size", 10, "--threads", 1)
LADDER = ("--dynamic", 1, 0.5, 0.3, "--dynamic-set", "pretrain=1", "align=4", "distill=0.5")


@pytest.fixture
def words(tiny: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("train", *SMALL, *QUICK, "--data", tiny, "--runs-dir", tmp_path / "runs", "--name", "first", "--seed", 7)


def test_a_ladder_is_trained_and_kept(precut, words, tmp_path) -> None:
    done = precut(*words, *LADDER, "--json")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    macs = [point["macs"] for point in row["points"]]
    assert macs[1] <= 0.5 * macs[0]
    assert macs[2] <= 0.3 * macs[0]
    file = tmp_path / "runs" / "first" / "model.safetensors"
    assert row["bytes"] == file.stat().st_size
    dyn = load(file)
    assert [point.to_dict() for point in dyn.points] == [point["point"] for point in row["points"]]
    for point in dyn.points:
        dyn.set_point(point)
        assert dyn(torch.zeros(1, 1, 12, 12)).shape == (1, 2)
    full = json.loads(precut("eval", file, "--json").out)  # as a plain model: the full network
    assert full["accuracy"] == row["points"][0]["test_accuracy"]
    again = precut(*words, *LADDER, "--resume")
    assert again.code == 0
    assert again.out.startswith("3 points\n")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--dynamic", 0.5, 0.7), "budgets must fall from one to the next; got 0.7 after 0.5"),
        (
            ("--dynamic", 2),
            "budgets must be a list of shares of the full network's cost, above 0 and at most 1; got [2.0]",
        ),
        (("--dynamic-set", "rank=l2"), "--dynamic-set needs --dynamic SHARE ... (such as 1 0.5 0.25)"),
        (
            ("--dynamic", 1, "--dynamic-set", "ranks=l2"),
            "unknown option of a dynamic training 'ranks': did you mean 'rank'?",
        ),
        (("--dynamic", 1, "--move", "rigl"), "--dynamic and --move exclude each other: a ladder's supports stay"),
    ],
)
def test_wrong_words(precut, words, more, message) -> None:
    done = precut(*words, *more)
    assert done.code == 2
    assert done.err[-1] == f"precut: error: {message}"
