"""The whole way from a fresh network to a trained ladder: train the full network a little, rank, cut, train jointly."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut._files import atomic_write
from precut.dynamic._fit import JointObjective, JointResult, fit
from precut.dynamic._ladder import checked_budgets, make_ladder, rank_channels_
from precut.dynamic._net import DynamicNet, make_dynamic
from precut.dynamic._point import Point
from precut.errors import PrecutError, unknown, whole
from precut.training import fit as fit_model
from precut.training import initialise_, load_recipe

if TYPE_CHECKING:
    from precut.data import Dataset
    from precut.training import Recipe

__all__ = ["OPTIONS", "train_ladder"]

_LADDER = ("metric", "rank", "align", "uniform", "floor")
_DEFAULTS = {"metric": "macs", "rank": "l1", "align": 8}
_FIT = ("mode", "sampled", "distill", "weights", "balance", "calibration_images")
# What ``train_ladder`` takes by name, beside the runs' own options.
OPTIONS = ("pretrain", "rewind", "norms", *_LADDER, *_FIT)


def train_ladder(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe | str | Path = "modern-cifar",
    run_dir: str | Path | None = None,
    *,
    budgets: Sequence[float],
    options: Mapping[str, Any] | None = None,
    **run: Any,
) -> tuple[DynamicNet, JointResult]:
    """Trains a ladder of subnets from a fresh (or trained) network.

    The full network is trained for ``pretrain`` epochs with the recipe, so that ranking its channels means something;
    then channels are ranked, points chosen at ``budgets``, and all points trained together for the recipe's epochs, from
    the weights that ranked them or, with ``rewind``, from those that the model came with.

    Args:
        model: trained in place by the first part, then copied.
        dataset, recipe: as in ``training.fit``.
        run_dir: of the joint training; the first part's is ``full`` inside it. ``ladder.json`` are the points: a run
            that is resumed keeps them, for costs that were measured would not come out the same again.
        budgets: see ``dyn.ladder``.
        options: "pretrain" (epochs, default 0), "rewind" (default false), "norms" (see ``make_dynamic``), of
            ``dyn.ladder`` "metric", "rank", "align", "uniform" and "floor", of ``dyn.fit`` "mode", "sampled", "distill",
            "weights", "balance" and "calibration_images".
        **run: of both trainings: seed, threads, device, precision, resume, overwrite, progress.

    Returns:
        (the dynamic network, what came of it).

    Raises:
        PrecutError: an unknown option, and what the parts raise.
    """
    given = dict(options or {})
    for name in given:
        if name not in OPTIONS:
            raise unknown("option of a dynamic training", name, OPTIONS)
    plan = load_recipe(recipe)
    pretrain = whole("pretrain", given.get("pretrain", 0), 0)
    rewind = given.get("rewind", False)
    if not isinstance(rewind, bool):
        raise PrecutError(f"rewind is true or false; got {rewind!r}")
    start = copy.deepcopy(model) if rewind and pretrain else None
    fresh = start if pretrain else model
    if fresh is not None:  # joint training leaves it out
        initialise_(fresh, dataset, plan, run.get("seed", 0))
    norms, example = given.get("norms", "private_stats"), torch.zeros(1, *dataset.image_shape)
    folder = None if run_dir is None else Path(run_dir)
    chosen: dict[str, Any] = _DEFAULTS | {name: given[name] for name in _LADDER if name in given}
    trained = {name: given[name] for name in _FIT if name in given}
    begun = folder is not None and run.get("resume") and (folder / "ladder.json").is_file()
    if pretrain and not begun:  # what is wrong is told before the first epoch, not after the last
        probe = make_dynamic(model, example, norms=norms)
        make_ladder(probe, budgets, data=dataset, **chosen)
        JointObjective(probe, dataset, seed=run.get("seed", 0), **trained)
    if pretrain:
        first = plan.replace(epochs=pretrain, milestones=tuple(m for m in plan.milestones if m < pretrain))
        fit_model(model, dataset, first, None if folder is None else folder / "full", **run)
    dyn = make_dynamic(model, example, norms=norms)
    _choose(dyn, dataset, folder, budgets, chosen, {"rewind": rewind, "pretrain": pretrain}, run)
    if start is not None:
        points, dyn = dyn.points, make_dynamic(start, example, norms=norms)
        dyn.prepare(points)
    return dyn, fit(dyn, dataset, plan, run_dir, **trained, **run)


def _choose(
    dyn: DynamicNet,
    dataset: Dataset,
    folder: Path | None,
    budgets: Sequence[float],
    options: Mapping[str, Any],
    beginning: Mapping[str, Any],
    run: Mapping[str, Any],
) -> None:
    """The points at ``budgets``, or those that the run in ``folder`` began with."""
    if folder is None:
        make_ladder(dyn, budgets, data=dataset, **options)
        return
    file = folder / "ladder.json"
    begun = (folder / "config.json").is_file() and not run.get("overwrite")
    asked = {"budgets": checked_budgets(budgets), **beginning}
    asked |= {name: _plain(value) for name, value in options.items()}
    if begun and run.get("resume") and file.is_file():
        points = _recorded(file, asked)
        rank_channels_(dyn, options["rank"], dataset)
        dyn.prepare(points)
        return
    points = make_ladder(dyn, budgets, data=dataset, **options)
    if not begun:  # else the training will refuse to go on, or began before there was such a file
        content = {**asked, "points": [point.to_dict() for point in points]}
        atomic_write(file, json.dumps(content, indent=2) + "\n")


def _plain(value: Any) -> Any:
    """As JSON gives it back; what JSON cannot hold (a function, scores) by its name."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return getattr(value, "__name__", type(value).__name__)


def _recorded(file: Path, asked: Mapping[str, Any]) -> list[Point]:
    try:
        recorded = json.loads(file.read_text())
        points = [Point.from_dict(item) for item in recorded["points"]]
    except (ValueError, TypeError, KeyError) as error:
        raise PrecutError(f"{str(file)!r} does not hold a ladder's points: {error}") from None
    for name in asked:
        if recorded.get(name) != asked[name]:
            raise PrecutError(
                f"cannot resume {str(file.parent)!r}: {name} is {asked[name]!r} here, but the run began with "
                f"{recorded.get(name)!r}; pass the same value, or overwrite=True to begin anew"
            )
    return points
