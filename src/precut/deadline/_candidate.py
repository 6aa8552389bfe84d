"""One candidate of a search, for real: built, timed on the engine, trained, validated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precut.data import Dataset
from precut.data import load as load_data
from precut.deadline._quantiles import quantile
from precut.engine import compile as compile_model
from precut.errors import PrecutError
from precut.layers import sparsify
from precut.measure import summary
from precut.models import create_model
from precut.pruning import prune
from precut.training import Callback, Recipe, TrainState, fit, initialise_, load_recipe

__all__ = ["Halved", "Measured", "Rejected", "Report", "check_settings", "evaluate"]

_OWN = ("model", "width_mult", "support", "resolution", "density")

# (fraction of the training that is done, accuracy so far): may raise Halved
Report = Callable[[float, float], None]


class Halved(Exception):  # noqa: N818 (it is no error)
    """The candidate is stopped early: others are better for what it costs."""


class Rejected(Exception):  # noqa: N818
    """The candidate cannot be: its parts do not go together."""


@dataclass(frozen=True)
class Measured:
    """What a candidate costs and gives.

    Attributes:
        seconds: of a call; the lesser of ``seconds_of`` before and after the training.
        accuracy: on validation images, 0 to 1.
        facts: JSON-able, kept beside: parameters, MACs, the folder of its run.
    """

    seconds: float
    accuracy: float
    facts: dict[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=4)
def _dataset(name: str, root: str | None, per_class: int | None, side: int | None) -> Dataset:
    dataset = load_data(name, root=root, image_size=side)
    return dataset if per_class is None else dataset.take(per_class)


def build(candidate: Mapping[str, Any], dataset: Dataset, recipe: Recipe, seed: int) -> tuple[nn.Module, Recipe]:
    """The untrained network of a candidate, and the recipe to train it by: ``recipe``, but where weights were scored one
    that keeps them."""
    channels, side, _ = dataset.image_shape
    own = {name: value for name, value in candidate.items() if name not in _OWN}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(
            candidate.get("model", "resnet20"),
            num_classes=dataset.num_classes,
            input_size=side,
            in_channels=channels,
            width_mult=candidate.get("width_mult", 1.0),
            **own,
        )
    support, density, score = candidate.get("support", "dense"), candidate.get("density", 1.0), "synflow"
    if support != "dense" and density < 1:
        raise Rejected(f"support {support} and density {density} both take weights away; one of them must not")
    name, _, share = support.partition(" ")
    if share:
        try:
            support, score, density = "dense", name, float(share)
        except ValueError:
            raise Rejected(
                f"support {support!r} is neither a support nor a score with the share that it keeps"
            ) from None
    if support != "dense":
        model = sparsify(model, support, seed=seed)
    elif density < 1:
        recipe = initialise_(model, dataset, recipe, seed)
        model, _ = prune(model, score, density, torch.zeros(1, *dataset.image_shape), rounds=20, seed=seed)
    return model, recipe


def seconds_of(model: nn.Module, example: torch.Tensor, threads: int, rounds: int) -> float:
    """The time that a tenth of compiled calls do not exceed. A search compares candidates measured at different moments on
    a machine that trains meanwhile: the quickest calls are those that the others disturbed least. ``precut profile``
    measures those that are kept side by side."""
    run = compile_model(model, example, threads=threads)
    for _ in range(3):
        run(example)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(example)
        times.append(time.perf_counter() - start)
    return quantile(times, 0.1)


def _recipe(settings: Mapping[str, Any]) -> Recipe:
    recipe = load_recipe(settings["recipe"]).replace(**settings.get("changes", {}))
    if not recipe.val_count:
        raise PrecutError("a search chooses by validation images, and the recipe holds out none: --set val_count=N")
    return recipe


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses settings with which every candidate would fail: no such data or recipe, or no images left to train on.

    Args:
        settings: as of :func:`evaluate`.
    """
    recipe = _recipe(settings)
    dataset = _dataset(settings["data"], settings.get("data_root"), settings.get("per_class"), None)
    dataset.split_validation(recipe.val_count, seed=recipe.val_seed)
    _dataset.cache_clear()  # whoever only asks has no further use for the images


class _Rungs(Callback):
    """Reports the validation accuracy after every epoch."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_epoch_end(self, state: TrainState) -> None:
        accuracy = state.history[-1].get("val_accuracy")
        if accuracy is not None and state.epoch < state.recipe.epochs:
            self.report(state.epoch / state.recipe.epochs, accuracy)


def evaluate(candidate: Mapping[str, Any], settings: Mapping[str, Any], folder: Path, report: Report) -> Measured:
    """Builds, times and trains a candidate; an interrupted training goes on from ``folder``.

    Args:
        candidate: values of the search space.
        settings: ``data``, ``data_root``, ``per_class``, ``recipe``, ``changes`` (of the recipe), ``batch``, ``threads``,
            ``timing_rounds``, ``seed``.
        folder: of the run.
        report: told the time of a call as ``report(0, seconds)`` first, then accuracies.

    Raises:
        Halved: as ``report`` says.
        Rejected: the candidate cannot be built, or not run.
    """
    side = candidate.get("resolution")
    recipe = _recipe(settings)
    dataset = _dataset(settings["data"], settings.get("data_root"), settings.get("per_class"), side)
    example = torch.zeros(settings.get("batch", 1), *dataset.image_shape)
    threads = settings.get("threads", 1)
    seed = settings.get("seed", 0)
    try:
        model, recipe = build(candidate, dataset, recipe, seed)
        counts = summary(model, example[:1])
        seconds = seconds_of(model, example, threads, settings.get("timing_rounds", 50))
    except PrecutError as error:
        raise Rejected(str(error)) from None
    report(0.0, seconds)
    resume = (folder / "config.json").exists()
    result = fit(
        model,
        dataset,
        recipe,
        run_dir=folder,
        seed=seed,
        threads=None if resume else threads,  # it goes on with those that it began with
        resume=resume,
        progress=False,
        callbacks=[_Rungs(report)],
    )
    assert result.val_accuracy is not None
    # Timed twice, minutes apart: the quicker time is nearer to what an undisturbed call takes.
    seconds = min(seconds, seconds_of(model, example, threads, settings.get("timing_rounds", 50)))
    facts = {
        "params": counts.params,
        "macs": counts.macs,
        "seconds_trained": result.seconds,
        "run": str(folder),
    }
    return Measured(seconds, result.val_accuracy, facts)
