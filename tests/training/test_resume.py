"""A run that was killed anywhere and resumed ends with the same bits as one that was left alone."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from precut import supports
from precut.layers import sparsify
from precut.training import Recipe, fit
from precut.training._state import read_tree
from training.toy import RECIPE, Crash, Drift, same, toy_dataset, toy_model, weights

STEPS = 15
FILES = ("state.safetensors", "best.safetensors", "model.safetensors")

RECIPES = {
    "sgd-ema": RECIPE,
    "sgd-plain": RECIPE.replace(average="none", schedule="multistep", milestones=[1], warmup=0.0),
    "adamw-lookahead": RECIPE.replace(optimizer="adamw", nesterov=False, lr=0.01, average="lookahead", average_every=2),
    "muon-bf16": RECIPE.replace(optimizer="muon", lr=0.02, vector_lr=0.1, precision="bf16-mixed", schedule="cosine"),
    "last-epoch": RECIPE.replace(val_count=0, drop_last=True, cutout=3, init="kundu", channels_last=False),
}


def train(folder: Path, recipe: Recipe, kill: int | None = None, **options: Any) -> nn.Module:
    """One session; ``kill`` ends it after that step. The model of a later session is not that of the first: all that
    counts must come from the checkpoint."""
    model = toy_model(seed=kill or 99) if folder.exists() else toy_model()
    fit(model, toy_dataset(), recipe, run_dir=folder, progress=False, resume=True, **options)
    return model


@pytest.mark.parametrize("name", RECIPES)
def test_killed_at_random_steps(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    draw = random.Random(name)
    kills = sorted(draw.sample(range(1, STEPS), 3))
    every = draw.choice([None, 1, 2, 4])
    whole = train(tmp_path / "whole", recipe, callbacks=[Drift(), Crash(0)])
    for kill in kills:
        with pytest.raises(RuntimeError, match="crash"):
            train(tmp_path / "cut", recipe, kill, callbacks=[Drift(), Crash(kill)], checkpoint_steps=every)
    resumed = train(tmp_path / "cut", recipe, callbacks=[Drift(), Crash(0)], checkpoint_steps=every)
    assert same(weights(resumed), weights(whole))
    for file in FILES:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows, without what a clock says."""
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_a_forgetful_callback_is_noticed(tmp_path: Path) -> None:
    """The control: the comparison above does see a state that was not kept."""

    class Forgetful(Drift):
        def state_dict(self) -> dict[str, Any]:
            return {"memory": self.memory * 0, "calls": 0}

    whole = train(tmp_path / "whole", RECIPE, callbacks=[Forgetful(), Crash(0)])
    with pytest.raises(RuntimeError, match="crash"):
        train(tmp_path / "cut", RECIPE, 7, callbacks=[Forgetful(), Crash(7)])
    resumed = train(tmp_path / "cut", RECIPE, callbacks=[Forgetful(), Crash(0)])
    assert not same(weights(resumed), weights(whole))


def test_sparse_layers_resume(tmp_path: Path) -> None:
    def session(folder: Path, crash: int) -> nn.Module:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))
        sparse = sparsify(model, supports.parse("PSD1_P8"), init="fresh", seed=0)
        nn.init.constant_(sparse.get_submodule("4").weight, 0.01)  # type: ignore[arg-type]
        nn.init.constant_(sparse.get_submodule("0").weight, 0.1)  # type: ignore[arg-type]
        callbacks = [Crash(crash)]
        fit(sparse, toy_dataset(), RECIPE, run_dir=folder, progress=False, resume=True, callbacks=callbacks)
        return sparse

    def start(folder: Path) -> nn.Module:
        with pytest.raises(RuntimeError, match="crash"):
            session(folder, 6)
        return session(folder, 0)

    import torch

    torch.manual_seed(0)
    whole = session(tmp_path / "whole", 0)
    torch.manual_seed(0)
    assert same(weights(start(tmp_path / "cut")), weights(whole))


@pytest.mark.parametrize("crash_in", ["best", "metrics", "state", "model", "result"])
def test_killed_between_two_files(crash_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies just before one of the files of an epoch's end, or of the run's, is in place."""
    import precut._files as files

    whole = train(tmp_path / "whole", RECIPE)
    replace, writes = os.replace, {"n": 0}

    def dying(source: Any, target: Any) -> None:
        if Path(target).name.startswith(crash_in):
            writes["n"] += 1
            if writes["n"] == (2 if crash_in in ("best", "metrics", "state") else 1):
                raise RuntimeError("crash")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", dying)
    with pytest.raises(RuntimeError, match="crash"):
        train(tmp_path / "cut", RECIPE)
    monkeypatch.undo()
    resumed = train(tmp_path / "cut", RECIPE)
    assert same(weights(resumed), weights(whole))
    for file in FILES:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_seconds_are_kept(tmp_path: Path) -> None:
    """An epoch's time is that of all its sessions up to their last checkpoints."""
    with pytest.raises(RuntimeError, match="crash"):
        train(tmp_path, RECIPE, 8, callbacks=[Crash(8)], checkpoint_steps=2)
    (tmp_path / "clock.json").write_text('{"step": 6, "seconds": 1000}')
    model = toy_model()
    options: dict[str, Any] = {"progress": False, "resume": True, "callbacks": [Crash(0)]}
    result = fit(model, toy_dataset(), RECIPE, run_dir=tmp_path, **options)
    assert [row["seconds"] >= 1000 for row in result.history] == [False, True, False]
    assert read_tree(tmp_path / "state.safetensors")["step"] == STEPS


def test_left_over_temporary_files_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        train(tmp_path, RECIPE, 8, callbacks=[Crash(8)])
    stray = tmp_path / ".state.safetensors.abc.tmp"
    stray.write_text("half")
    train(tmp_path, RECIPE, callbacks=[Crash(0)])
    assert not stray.exists()


@pytest.mark.slow
def test_killed_with_sigkill_ten_times(tmp_path: Path) -> None:
    """A real process, a real SIGKILL at random moments."""
    epochs = 150
    script = [sys.executable, str(Path(__file__).with_name("toy.py"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [*script, str(folder), str(epochs), "norm"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    draw = random.Random(0)
    killed = 0
    while killed < 10:
        process = start(tmp_path / "cut")
        before = read_step(tmp_path / "cut")
        while read_step(tmp_path / "cut") in (None, before) and process.poll() is None:
            time.sleep(0.005)  # it makes headway in every session, so that the kills lie all over the run
        time.sleep(draw.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 10
    assert start(tmp_path / "cut").wait() == 0
    for file in FILES:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def read_step(folder: Path) -> int | None:
    """The step of the checkpoint that lies there; it is whole at any moment."""
    path = folder / "state.safetensors"
    return read_tree(path)["step"] if path.exists() else None
