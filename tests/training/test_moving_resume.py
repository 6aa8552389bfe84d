"""A run whose supports move, killed anywhere and resumed, ends with the same bits as one that was left alone. As a
script: one process of the last test."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import precut
from precut.training import MovingSupports, fit
from precut.training._state import read_tree
from training.toy import RECIPE, Crash, same, toy_dataset, weights

FILES = ("state.safetensors", "best.safetensors", "model.safetensors")
STEPS = 15
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "pairs-sgd-ema": ("PS4_P4", {"rule": "rigl"}, {}),
    "weights-adamw": ("pSC4", {"rule": "rigl"}, {"optimizer": "adamw", "nesterov": False, "lr": 0.01}),
    "random-lookahead": ("center_P4", {"rule": "set", "period": 4, "seed": 3}, {"average": "lookahead"}),
    "freed-muon": ("PSD4_P8", {"unit": "weights"}, {"optimizer": "muon", "lr": 0.02, "average": "none"}),
}


def model_of(support: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(12, 8, 3, padding=1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
    return precut.sparsify(model, support)


def train(folder: Path, name: str, kill: int = 0, **options: Any) -> nn.Module:
    support, moving, recipe = CASES[name]
    model = model_of(support)
    if folder.exists():  # all that counts must come from the checkpoint, so a later session begins with other weights
        nn.utils.vector_to_parameters(torch.ones(sum(p.numel() for p in model.parameters())), model.parameters())
    fit(
        model,
        toy_dataset(),
        RECIPE.replace(**{**recipe, **options.pop("recipe", {})}),
        run_dir=folder,
        progress=False,
        resume=True,
        callbacks=[MovingSupports(every=2, fraction=0.5, end=1.0, **moving), Crash(kill)],
        **options,
    )
    return model


def check_equal(one: Path, other: Path) -> None:
    for file in FILES:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.parametrize("name", CASES)
def test_killed_at_random_steps(name: str, tmp_path: Path) -> None:
    draw = random.Random(name)
    every = draw.choice([None, 1, 3])
    whole = train(tmp_path / "whole", name)
    for kill in sorted(draw.sample(range(1, STEPS), 3)):
        with pytest.raises(RuntimeError, match="crash"):
            train(tmp_path / "cut", name, kill, checkpoint_steps=every)
    resumed = train(tmp_path / "cut", name, checkpoint_steps=every)
    assert same(weights(resumed), weights(whole))
    check_equal(tmp_path / "cut", tmp_path / "whole")
    moved = [module.support for module in resumed.modules() if hasattr(module, "support")]
    fresh = [module.support for module in model_of(CASES[name][0]).modules() if hasattr(module, "support")]
    assert all(one != other for one, other in zip(moved, fresh, strict=True))


def test_the_result_of_a_finished_run_has_its_supports(tmp_path: Path) -> None:
    """The best epoch may be an earlier one than the last, with other supports than the last."""
    whole = train(tmp_path, "pairs-sgd-ema")
    again = train(tmp_path, "pairs-sgd-ema")
    assert same(weights(whole), weights(again))
    assert whole.get_submodule("3").support == again.get_submodule("3").support
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(whole.eval()(x), again.eval()(x))
    loaded = precut.load(tmp_path / "model.safetensors", model_of("dense"))
    assert torch.equal(loaded(x), whole(x))


def test_a_run_is_not_resumed_with_other_moves(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        train(tmp_path, "random-lookahead", 5)
    CASES["other"] = ("center_P4", {"rule": "set", "period": 4, "seed": 4}, {"average": "lookahead"})
    try:
        with pytest.raises(precut.PrecutError, match=r"cannot resume .*: callbacks is .*'seed': 4.*'seed': 3"):
            train(tmp_path, "other")
    finally:
        del CASES["other"]


@pytest.mark.slow
def test_killed_with_sigkill(tmp_path: Path) -> None:
    """A real process, a real SIGKILL at random moments."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__, str(folder)], env=environment, stderr=subprocess.DEVNULL)

    def read_step() -> int | None:
        path = tmp_path / "cut" / "state.safetensors"
        return read_tree(path)["step"] if path.exists() else None

    assert start(tmp_path / "whole").wait() == 0
    draw = random.Random(0)
    killed = 0
    while killed < 5:
        process, before = start(tmp_path / "cut"), read_step()
        while read_step() in (None, before) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 5
    assert start(tmp_path / "cut").wait() == 0
    check_equal(tmp_path / "cut", tmp_path / "whole")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), "pairs-sgd-ema", recipe={"epochs": 120}, checkpoint_steps=3)
