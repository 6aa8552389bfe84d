"""Train a dense network, a narrower dense one and two pre-defined sparse ones on a bundled sample of Fashion-MNIST
(10,000 training and 2,000 test images), and compare what they cost with what they reach."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.cli._options import add_data, channels_of, load_data
from precut.cli._parser import assignments, seed, whole
from precut.cli._show import say, show
from precut.errors import PrecutError

if TYPE_CHECKING:
    from torch import nn

    from precut.data import Dataset
    from precut.report import Table
    from precut.training import Recipe

__all__ = ["configure", "run"]


@dataclass(frozen=True)
class _Network:
    """One row of the demo: a speednet of these widths."""

    folder: str
    name: str
    widths: tuple[int, int, int]
    support: str


# The last three do about the same number of multiply-adds (4.1 to 4.2 million at 28 pixels), which is 2.2 times fewer
# than the first. A sparse network is wider the fewer weights its kernels keep.
NETWORKS = (
    _Network("dense", "dense", (32, 64, 64), "dense"),
    _Network("narrow", "dense, narrower", (20, 40, 44), "dense"),
    _Network("PS4_P4", "sparse", (32, 64, 64), "PS4_P4"),
    _Network("center_P4", "sparse, wider", (40, 72, 64), "center_P4"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", metavar="FOLDER", default="runs", help="results go to FOLDER/demo (default runs)")
    add_data(parser, "fashion-mnist-sample")
    parser.add_argument("--set", metavar="FIELD=VALUE", nargs="+", default=[], help="changes of the recipe: epochs=2")
    parser.add_argument("--seed", metavar="N", type=seed, default=0)
    parser.add_argument("--threads", metavar="N", type=whole(), help="of torch, for training (default: torch's choice)")


def run(arguments: argparse.Namespace) -> None:
    """Trains, measures, prints and saves everything."""
    from precut.report import pareto_plot
    from precut.training import environment, load_recipe

    began = time.perf_counter()
    recipe = load_recipe("demo", **assignments(arguments.set, "--set"))
    dataset = load_data(arguments)
    folder = Path(arguments.runs_dir) / "demo"
    models, rows = [], []
    for number, network in enumerate(NETWORKS, 1):
        widths = ", ".join(map(str, network.widths))
        say(f"[{number}/{len(NETWORKS)}] {network.name}: speednet of widths {widths}, support {network.support}")
        model, row = _train(network, dataset, recipe, folder, arguments)
        models.append(model)
        rows.append(row)
    say("measuring the latency of each")
    times, what = _latencies(models, dataset)
    for row, seconds in zip(rows, times, strict=True):
        row["latency_ms"] = 1000 * seconds
    table = _table(rows, dataset, recipe, what)
    picture = pareto_plot(
        [{**row, "label": f"{row['support']} {row['widths']}"} for row in rows],
        folder / "pareto.png",
        x="macs",
        y="test_percent",
        label="label",
        x_label="multiply-adds an image (counted)",
        y_label="test accuracy, % (measured)",
        title=f"{dataset.name}, {recipe.epochs} epochs, seed {arguments.seed}",
    )
    result = {**table.to_dict(), "recipe": recipe.to_dict(), "seed": arguments.seed, "environment": environment()}
    _write(folder / "demo.json", json.dumps(result, indent=2))
    _write(folder / "demo.txt", str(table))
    closing = f"{time.perf_counter() - began:.0f} s in all. Picture: {picture}. Models: {folder}/*/model.safetensors"
    show(f"{table}\n\n{closing}", result, arguments.json)


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _train(
    network: _Network, dataset: Dataset, recipe: Recipe, folder: Path, arguments: argparse.Namespace
) -> tuple[nn.Module, dict[str, Any]]:
    import torch

    from precut.layers import sparsify
    from precut.measure import summary
    from precut.models import create_model
    from precut.training import TrainingInterrupted, fit

    channels, side = channels_of(dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        model = create_model(
            "speednet",
            num_classes=dataset.num_classes,
            input_size=side,
            in_channels=channels,
            widths=list(network.widths),
        )
    model = sparsify(model, network.support, seed=arguments.seed)
    counts = summary(model, torch.zeros(1, *dataset.image_shape))
    place = folder / network.folder
    try:
        result = fit(
            model, dataset, recipe, run_dir=place, seed=arguments.seed, threads=arguments.threads, overwrite=True
        )
    except TrainingInterrupted as stop:
        raise TrainingInterrupted("the demo was stopped; precut demo begins it anew", stop.signal) from None
    row = {
        "model": network.name,
        "widths": "-".join(map(str, network.widths)),
        "support": network.support,
        "params": counts.params,
        "params_dense": counts.params_dense,
        "macs": counts.macs,
        "macs_dense": counts.macs_dense,
        "bytes": (place / "model.safetensors").stat().st_size,
        "test_percent": 100 * result.test_accuracy,
        "train_seconds": result.seconds,
    }
    return model, row


def _latencies(models: list[nn.Module], dataset: Dataset) -> tuple[list[float], str]:
    """Median seconds of a single image for each model, and a line that says how they ran."""
    import torch

    from precut.measure import latency

    x = torch.zeros(1, *dataset.image_shape)
    run, how = _runnable(models, x)
    reports = [latency(one, x, threads=1, repeats=200, min_time=0.5) for one in run]
    conditions = f"median of at least {min(report.n for report in reports)} calls, one image, 1 thread"
    return [report.median for report in reports], f"latency: measured, {how}; {conditions}"


def _runnable(models: list[nn.Module], x: Any) -> tuple[list[Callable[..., Any]], str]:
    """All models compiled by the engine where it is there and takes them, else as torch runs them: one way for all."""
    try:
        from precut.engine import compile as compiled

        return [compiled(model, example_inputs=x, threads=1) for model in models], "compiled by precut.compile"
    except (ImportError, PrecutError):  # the native library was not built, or does not take the models
        slow = "torch's operators, where sparse layers run as dense ones of the same width, at dense speed"
        return [model.eval() for model in models], slow


def _error(rows: list[dict[str, Any]], images: int) -> float:
    """The largest standard error, in points, of an accuracy measured on so many images."""
    return max(math.sqrt(row["test_percent"] * (100 - row["test_percent"]) / images) for row in rows)


def _table(rows: list[dict[str, Any]], dataset: Dataset, recipe: Recipe, latency_note: str) -> Table:
    from precut.report import Column, Table, byte_size, count, si

    columns = [
        Column("model"),
        Column("widths"),
        Column("support"),
        Column("params", format=count),
        Column("params_dense", "dense", count),
        Column("macs", "MACs", si),
        Column("macs_dense", "dense", si),
        Column("bytes", "file", byte_size),
        Column("test_percent", "test %", ".2f"),
        Column("train_seconds", "train s", ".1f"),
        Column("latency_ms", "latency ms", ".3f"),
    ]
    notes = [
        "counted: params and MACs (multiply-adds an image), each beside those of the dense network of the same widths; "
        "file: bytes of model.safetensors",
        f"measured: test % ({len(dataset.test):,} images, epoch chosen on validation images), training time. One seed: "
        f"the draw of the test images alone is worth about {_error(rows, len(dataset.test)):.1f} points",
        latency_note,
    ]
    title = f"{dataset.name}: {len(dataset.train):,} training images, recipe {recipe.name}, {recipe.epochs} epochs"
    return Table(rows, columns, title=title, notes=notes)
