"""``precut train --dynamic``: a ladder of subnets trained together."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.cli._parser import assignments, number
from precut.cli._show import say, show
from precut.errors import PrecutError

if TYPE_CHECKING:
    from torch import nn

    from precut.data import Dataset
    from precut.training import Recipe

__all__ = ["add_dynamic", "train_dynamic"]


def add_dynamic(parser: argparse.ArgumentParser) -> None:
    """``--dynamic`` and how."""
    parser.add_argument(
        "--dynamic",
        metavar="SHARE",
        nargs="+",
        type=number,
        help="train a ladder of subnets with these shares of the full network's cost: 1 0.5 0.25",
    )
    parser.add_argument(
        "--dynamic-set",
        metavar="NAME=VALUE",
        nargs="+",
        default=[],
        help="how: pretrain=2 rewind=true rank=l1 metric=macs uniform=false mode=sandwich distill=0.5 norms=private",
    )


def train_dynamic(
    arguments: argparse.Namespace, model: nn.Module, dataset: Dataset, recipe: Recipe, folder: Path
) -> None:
    """Trains the ladder and reports."""
    from precut.dynamic import ladder_table, train_ladder
    from precut.training import TrainingInterrupted

    if arguments.move is not None:
        raise PrecutError("--dynamic and --move exclude each other: a ladder's supports stay")
    options = assignments(arguments.dynamic_set, "--dynamic-set")
    say(
        f"{arguments.model}, support {arguments.support}, on {dataset.name}: {len(arguments.dynamic)} points into {folder}"
    )
    try:
        dyn, result = train_ladder(
            model,
            dataset,
            recipe,
            folder,
            budgets=arguments.dynamic,
            options=options,
            seed=arguments.seed,
            threads=arguments.threads,
            device=arguments.device,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
        )
    except TrainingInterrupted as stop:
        again = shlex.join([word for word in arguments.words if word != "--overwrite"])
        hint = f"go on with: precut train {again}" + ("" if arguments.resume else " --resume")
        raise TrainingInterrupted(f"{stop}; {hint}", stop.signal) from None
    table = ladder_table(dyn, [row["test_accuracy"] for row in result.points])
    row: dict[str, Any] = {
        "run": str(folder),
        "model": arguments.model,
        "support": arguments.support,
        "bytes": (folder / "model.safetensors").stat().st_size,
        "val_accuracy": result.run.val_accuracy,
        "best_epoch": result.run.best_epoch,
        "seconds": result.run.seconds,
        "points": result.points,
    }
    show(table, row, arguments.json)
