"""Train one network, dense or sparse, into runs/NAME/ (config.json, env.json, metrics.csv, model.safetensors,
result.json)."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

from precut.cli._dynamic import add_dynamic, train_dynamic
from precut.cli._options import (
    add_data,
    add_model,
    add_moves,
    add_recipe,
    build,
    channels_of,
    load_data,
    moves_of,
    recipe_of,
    run_folder,
)
from precut.cli._pruning import add_pruning, prune_by, wants_pruning
from precut.cli._show import say, show
from precut.errors import PrecutError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", required=True, help="see precut list models")
    add_model(parser)
    add_data(parser, "fashion-mnist-sample")
    parser.add_argument("--image-size", metavar="N", type=int, help="bring all images to this side in pixels")
    add_recipe(parser, "modern-cifar")
    add_pruning(parser)
    add_moves(parser)
    add_dynamic(parser)
    parser.add_argument("--device", metavar="NAME", default="cpu", help="cpu, cuda, cuda:1 or mps (default cpu)")
    parser.add_argument("--name", metavar="NAME", help="of the run (default MODEL-SUPPORT-DATA-sSEED)")
    parser.add_argument("--runs-dir", metavar="FOLDER", default="runs", help="default runs")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run, or show the result if it is finished"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin the run anew")


def _folder(arguments: argparse.Namespace) -> Path:
    name = arguments.name
    if name is None:
        form = arguments.support
        if wants_pruning(arguments):
            form = f"{arguments.score or 'synflow'}-{arguments.density or arguments.structure or 'given'}"
        parts = f"{arguments.model}-{form}-{Path(arguments.data).name}-s{arguments.seed}"
        name = re.sub(r"[^\w.-]", "_", parts)
    return run_folder(arguments, name)


def run(arguments: argparse.Namespace) -> None:
    """Trains and reports."""
    import torch

    from precut.measure import summary
    from precut.training import TrainingInterrupted, fit, initialise_

    folder = _folder(arguments)
    recipe = recipe_of(arguments)
    if (folder / "config.json").is_file() and not (arguments.resume or arguments.overwrite):
        kind = "a finished" if (folder / "result.json").is_file() else "an unfinished"
        raise PrecutError(
            f"{str(folder)!r} holds {kind} run: add --resume to go on with it, --overwrite to begin anew, "
            "or choose another --name"
        )
    if (folder / "report.json").is_file() and not (arguments.resume or arguments.overwrite):
        raise PrecutError(f"{str(folder)!r} holds a pruning: choose another --name, or add --overwrite to replace it")
    if arguments.resume and arguments.overwrite:
        raise PrecutError("--resume and --overwrite exclude each other; choose one")
    if arguments.dynamic_set and not arguments.dynamic:
        raise PrecutError("--dynamic-set needs --dynamic SHARE ... (such as 1 0.5 0.25)")
    if wants_pruning(arguments) and (arguments.support != "dense" or arguments.dynamic):
        raise PrecutError("--score, --density and the like choose the weights: leave --support and --dynamic out")
    moves = moves_of(arguments)
    dataset = load_data(arguments, arguments.image_size)
    channels, side = channels_of(dataset)
    example = torch.zeros(1, *dataset.image_shape)
    model = build(arguments, dataset.num_classes, side, channels)
    if arguments.dynamic:
        train_dynamic(arguments, model, dataset, recipe, folder)
        return
    support = arguments.support
    if wants_pruning(arguments):
        images = recipe.split(dataset)[0]
        recipe = initialise_(model, dataset, recipe, arguments.seed, images)
        model, report = prune_by(arguments, model, example, dataset, images=images)
        support = f"{report.score} {report.structure or 'weights'}"
        for line in report.warnings:
            say(f"warning: {line}")
    counts = summary(model, example)
    say(f"{arguments.model}, support {support}, on {dataset.name}: {recipe.epochs} epochs into {folder}")
    try:
        result = fit(
            model,
            dataset,
            recipe,
            run_dir=folder,
            seed=arguments.seed,
            threads=arguments.threads,
            device=arguments.device,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            callbacks=moves,
        )
    except TrainingInterrupted as stop:
        again = shlex.join([word for word in arguments.words if word != "--overwrite"])
        hint = f"go on with: precut train {again}" + ("" if arguments.resume else " --resume")
        raise TrainingInterrupted(f"{stop}; {hint}", stop.signal) from None
    row: dict[str, Any] = {
        "run": str(folder),
        "model": arguments.model,
        "support": support,
        "params": counts.params,
        "params_dense": counts.params_dense,
        "macs": counts.macs,
        "macs_dense": counts.macs_dense,
        "bytes": (folder / "model.safetensors").stat().st_size,
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
    }
    show(f"{counts}\n\n{_table(row)}" if not arguments.json else "", row, arguments.json)


def _table(row: dict[str, Any]) -> str:
    from precut.report import Column, Table, byte_size, duration

    columns = [
        Column("run"),
        Column("bytes", "file", byte_size),
        Column("val_accuracy", "validation %", lambda share: f"{100 * share:.2f}", "right"),
        Column("test_accuracy", "test %", lambda share: f"{100 * share:.2f}", "right"),
        Column("best_epoch", "best epoch"),
        Column("seconds", "training", duration),
    ]
    keys = [column.key for column in columns]
    return str(Table([{key: row[key] for key in keys}], columns, notes=["measured, but for the file's size"]))
