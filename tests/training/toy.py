"""A task small enough to train on in a blink; run as a script, one process of a test with several of them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precut.data import Dataset, Split
from precut.training import Callback, FitResult, Recipe, TrainingInterrupted, TrainState, fit

RECIPE = Recipe(
    epochs=3,
    batch_size=20,
    lr=0.1,
    nesterov=True,
    weight_decay=1e-3,
    warmup=0.3,
    label_smoothing=0.1,
    average="ema",
    average_decay=0.8,
    crop_padding=1,
    flip=True,
    val_count=30,
)


def toy_dataset(train: int = 130, test: int = 50, seed: int = 0) -> Dataset:
    """Five classes of 8 x 8 noise, each brighter than the last."""
    generator = torch.Generator().manual_seed(seed)

    def split(count: int, name: str) -> Split:
        labels = torch.arange(count) % 5
        noise = torch.randn(count, 3, 8, 8, generator=generator) * 30 + 70
        images = (noise + 25 * labels[:, None, None, None]).clamp(0, 255).to(torch.uint8)
        return Split(images, labels, f"toy {name}")

    classes = ["a", "b", "c", "d", "e"]
    return Dataset("toy", split(train, "train"), split(test, "test"), classes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def toy_model(norm: bool = True, dropout: float = 0.2, seed: int = 0) -> nn.Sequential:
    """Convolution, norm, dropout, linear; its weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 5),
        )


class Drift(Callback):
    """Changes weights at random from a memory of its own: resumes rightly only if that memory does."""

    def __init__(self, size: float = 0.01) -> None:
        self.size = size
        self.memory = torch.zeros(5)
        self.calls = 0

    def config(self) -> dict[str, Any]:
        return {"size": self.size}

    def on_step_end(self, state: TrainState) -> None:
        self.calls += 1
        self.memory = 0.5 * self.memory + self.size * torch.randn(5) * self.calls
        with torch.no_grad():
            state.model.get_submodule("6").bias += self.memory  # type: ignore[operator]

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory, "calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory, self.calls = state["memory"].clone(), state["calls"]


class Crash(Callback):
    """Raises once so many steps have ended, as if the process had died there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: TrainState) -> None:
        if state.step == self.step:
            raise RuntimeError("crash")


class Stop(Callback):
    """Sends this process a signal at a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step = step
        self.number = number

    def on_step_end(self, state: TrainState) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), self.number)


def run(folder: Path | None, model: nn.Module | None = None, **options: Any) -> tuple[Any, FitResult]:
    """Train silently; gives the model too."""
    model = toy_model() if model is None else model
    recipe = options.pop("recipe", RECIPE)
    dataset = options.pop("dataset", None) or toy_dataset()
    return model, fit(model, dataset, recipe, run_dir=folder, progress=False, **options)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def main(folder: str, epochs: str, *options: str) -> None:
    """One session: with "norm", batch norm and dropout; with "stop=STEP", a SIGTERM at that step."""
    torch.set_num_threads(1)
    norm = "norm" in options
    stops = [int(option.removeprefix("stop=")) for option in options if option.startswith("stop=")]
    try:
        fit(
            toy_model(norm=norm, dropout=0.2 if norm else 0.0),
            toy_dataset(),
            RECIPE.replace(epochs=int(epochs)),
            run_dir=folder,
            resume=True,
            callbacks=[Stop(*stops or [0])],
            checkpoint_steps=3,
        )
    except TrainingInterrupted as stop:
        print(stop, file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
