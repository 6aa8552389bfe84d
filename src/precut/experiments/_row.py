"""The row of a finished run: what was asked for, what it is, what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from precut.errors import PrecutError
from precut.measure import environment
from precut.training import resolve_precision

if TYPE_CHECKING:
    from precut.experiments._claim import Run
    from precut.measure import Summary
    from precut.training import FitResult, Recipe

__all__ = ["COLUMNS", "asked", "check_same", "row_of"]

COLUMNS = (
    "run", "seed", "group", "model", "kwargs", "support", "init", "recipe", "changes", "epochs", "precision",
    "params", "params_dense", "macs", "macs_dense", "val_accuracy", "test_accuracy", "best_epoch", "seconds",
    "threads", "torch", "cpu", "prune", "move", "dynamic", "points", "per_class",
)  # fmt: skip


def asked(run: Run) -> dict[str, Any]:
    """The columns that the claim alone decides, and the result with them."""

    def text(value: Mapping[str, Any] | None) -> str:
        return "" if value is None else json.dumps(dict(value), sort_keys=True)

    return {
        "model": run.model,
        "kwargs": text(run.kwargs),
        "support": run.described,
        "init": run.init,
        "recipe": run.recipe,
        "changes": text(run.changes),
        "prune": text(run.prune),
        "move": text(run.move),
        "dynamic": text(run.dynamic),
        "per_class": "" if run.per_class is None else str(run.per_class),
    }


def check_same(row: Mapping[str, str], run: Run, where: object) -> None:
    """Refuses a finished row that the claim, as it is now, would not give: its numbers must not stand beside others."""
    for column, now in asked(run).items():
        was = row.get(column) or ""
        if was != now:
            raise PrecutError(
                f"{where}: the row {run.key} was made with {column} {was!r}, and the claim now says {now!r}; "
                "remove the row, or give the run another name"
            )


def row_of(run: Run, recipe: Recipe, counts: Summary, result: FitResult, threads: int | None) -> dict[str, Any]:
    """The row, but for the points of a dynamic network."""
    if result.test_accuracy is None:
        raise PrecutError(f"run {run.key!r} ended without a test accuracy")
    return {
        "run": run.name,
        "seed": run.seed,
        "group": run.group,
        **asked(run),
        "epochs": recipe.epochs,
        "precision": resolve_precision(recipe.precision, torch.device("cpu")),
        "params": counts.params,
        "params_dense": counts.params_dense,
        "macs": counts.macs,
        "macs_dense": counts.macs_dense,
        "val_accuracy": "" if result.val_accuracy is None else f"{result.val_accuracy:.4f}",
        "test_accuracy": f"{result.test_accuracy:.4f}",
        "best_epoch": result.best_epoch,
        "seconds": f"{result.seconds:.0f}",
        "threads": threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": environment().get("cpu", ""),
    }
