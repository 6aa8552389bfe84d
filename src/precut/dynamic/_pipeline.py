"""The whole way from a fresh network to a trained ladder: train the full network a little, rank, cut, train jointly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut.data import BatchLoader
from precut.dynamic._fit import JointResult, fit
from precut.dynamic._ladder import make_ladder
from precut.dynamic._net import DynamicNet, make_dynamic
from precut.errors import unknown, whole
from precut.models import init_whitening_
from precut.models.speednet import SpeedNet
from precut.training import fit as fit_model
from precut.training import load_recipe

if TYPE_CHECKING:
    from precut.data import Dataset
    from precut.training import Recipe

__all__ = ["OPTIONS", "train_ladder"]

_LADDER = ("metric", "rank", "align", "uniform", "floor")
_FIT = ("mode", "sampled", "distill", "weights", "balance", "calibration_images")
# What ``train_ladder`` takes by name, beside the runs' own options.
OPTIONS = ("pretrain", "norms", *_LADDER, *_FIT)
_WHITENING_IMAGES = 5000


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
    then channels are ranked, points chosen at ``budgets``, and all points trained together for the recipe's epochs.

    Args:
        model: trained in place by the first part, then copied.
        dataset, recipe: as in ``training.fit``.
        run_dir: of the joint training; the first part's is ``full`` inside it.
        budgets: see ``dyn.ladder``.
        options: "pretrain" (epochs, default 0), "norms" (see ``make_dynamic``), of ``dyn.ladder`` "metric", "rank",
            "align", "uniform" and "floor", of ``dyn.fit`` "mode", "sampled", "distill", "weights", "balance" and
            "calibration_images".
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
    if pretrain:
        first = plan.replace(epochs=pretrain, milestones=tuple(m for m in plan.milestones if m < pretrain))
        fit_model(model, dataset, first, None if run_dir is None else Path(run_dir) / "full", **run)
    elif plan.whiten and isinstance(model, SpeedNet):
        count = min(_WHITENING_IMAGES, len(dataset.train))
        init_whitening_(model, next(iter(BatchLoader(dataset.train, count, dataset.mean, dataset.std)))[0])
    dyn = make_dynamic(model, torch.zeros(1, *dataset.image_shape), norms=given.get("norms", "private_stats"))
    chosen = {name: given[name] for name in _LADDER if name in given}
    make_ladder(dyn, budgets, data=dataset, **{"metric": "macs", "rank": "l1", "align": 8, **chosen})
    trained = {name: given[name] for name in _FIT if name in given}
    return dyn, fit(dyn, dataset, plan, run_dir, **trained, **run)
