"""Runs of claims about dynamic networks: a ladder trained jointly, and one of its subnets trained alone.

``dynamic: {budgets: [1, 0.5], pretrain: 3, rank: l1, ...}`` trains a ladder (see ``dynamic.train_ladder``); its row has
every point's counts and test accuracy, as JSON, in the column ``points``. ``dynamic: {alone: RUN, point: 3}`` trains
the subnet of the third point (counted from 0) of the ladder RUN of the same seed, which must be finished, from fresh
weights: those of the full network, cut, and scaled to their smaller fan-in.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut.dynamic import Point, make_dynamic, train_ladder
from precut.errors import PrecutError
from precut.experiments._row import row_of
from precut.measure import summary
from precut.training import fit

if TYPE_CHECKING:
    from precut.data import Dataset
    from precut.experiments._claim import Run
    from precut.training import Recipe

__all__ = ["do_dynamic"]


def do_dynamic(
    run: Run, model: nn.Module, recipe: Recipe, dataset: Dataset, folder: Path, threads: int | None, progress: bool
) -> dict[str, Any]:
    """Does one run and returns its row.

    Args:
        model: the full network, fresh.
        folder: the run's.
    """
    options = dict(run.dynamic or {})
    # With resume, a run that there is none of yet begins.
    shared: dict[str, Any] = {"seed": run.seed, "threads": threads, "progress": progress, "resume": True}
    points: list[dict[str, Any]] = []
    if "alone" in options:
        net = _alone(run, options, model, dataset, folder)
        result = fit(net, dataset, recipe, run_dir=folder, **shared)
    else:
        if "budgets" not in options:
            raise PrecutError(f"run {run.key!r}: dynamic needs budgets, or alone and point; got {options!r}")
        budgets = options.pop("budgets")
        dyn, joint = train_ladder(model, dataset, recipe, folder, budgets=budgets, options=options, **shared)
        net, result = dyn.model, joint.run
        keys = ("macs", "params", "test_accuracy")
        points = [{key: round(row[key], 4) for key in keys} for row in joint.points]
    counts = summary(net, torch.zeros(1, *dataset.image_shape))
    return {**row_of(run, recipe, counts, result, threads), "points": json.dumps(points) if points else ""}


def _alone(run: Run, options: dict[str, Any], model: nn.Module, dataset: Dataset, folder: Path) -> nn.Module:
    """The fresh subnet that ``options`` ({"alone": run, "point": number}) names."""
    ladder = folder.parent / f"{options['alone']}-s{run.seed}"
    if not (ladder / "points.json").is_file():
        raise PrecutError(
            f"run {run.key!r} needs the points of {options['alone']!r} with seed {run.seed}: do that run first "
            f"(there is no {str(ladder / 'points.json')!r})"
        )
    rows = json.loads((ladder / "points.json").read_text())
    number = options.get("point")
    if not isinstance(number, int) or not 0 <= number < len(rows):
        raise PrecutError(f"run {run.key!r}: point must be from 0 to {len(rows) - 1}; got {number!r}")
    dyn = make_dynamic(model, torch.zeros(1, *dataset.image_shape))
    net = dyn.extract(Point.from_dict(rows[number]["point"]), uncalibrated=True).train()
    before = dict(model.named_modules())
    with torch.no_grad():
        for name, layer in net.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                full: Any = before[name]
                layer.weight.mul_(math.sqrt(full.weight[0].numel() / layer.weight[0].numel()))
    return net
