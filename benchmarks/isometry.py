"""Does NN-Mass explain isometry and accuracy? Random networks at initialisation, and multilayer perceptrons trained.

    python benchmarks/isometry.py --data-root DATA            # does what results/isometry/rows.csv lacks, then reports
    python benchmarks/isometry.py --show                      # reports what there is

Parts (each network with 5 seeds, of links and weights):
    mlp      width 8, depths 16 to 32, links 0 to 12: 65 networks; isometry on 100 images; trained on mnist
    widths   widths 4 to 32, depths 12 to 28, links 0 to 16: 60 networks; the same
    cells    one convolutional cell of width 8, depths 6 to 14, links 0 to 24: 65 networks; isometry on 8 images
    linear, circle   width 8, 30 networks, trained on points in 20 segments
MNIST is looked for below --data-root; any part of it will do (the number of images is in the rows).
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precut import create_model
from precut._environment import environment
from precut._files import atomic_write
from precut.data import BatchLoader, Dataset, load
from precut.report import Column, Table, lines_plot
from precut.topology import cell_degree, cell_mass, fit, isometry

SEEDS = 5
COLUMNS = (
    "part", "width", "depth", "links", "seed", "mass", "degree", "params", "official", "exact", "error", "accuracy",
    "data", "images", "epochs",
)  # fmt: skip
GRIDS = {
    "mlp": [(8, d, t) for d in (16, 20, 24, 28, 32) for t in range(13)],
    "widths": [(w, d, t) for w in (4, 8, 16, 32) for d in (12, 20, 28) for t in (0, 2, 4, 8, 16)],
    "cells": [(8, d, t) for d in (6, 8, 10, 12, 14) for t in range(0, 25, 2)],
    "linear": [(8, d, t) for d in (16, 20, 24, 28, 32) for t in (0, 2, 4, 6, 8, 12)],
    "circle": [(8, d, t) for d in (16, 20, 24, 28, 32) for t in (0, 2, 4, 6, 8, 12)],
}
EPOCHS = {"mlp": 60, "widths": 60, "linear": 60, "circle": 60}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def network(part: str, width: int, depth: int, links: int, seed: int, data: Dataset) -> nn.Module:
    """One network; its weights depend on the seed alone."""
    channels, side, _ = data.image_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {"num_classes": len(data.classes), "input_size": side, "in_channels": channels}
        if part == "cells":
            return create_model("random_densenet", **shape, widths=[width], depth=depth, links=links, seed=seed)
        return create_model("dense_mlp", **shape, width=width, depth=depth, links=links, seed=seed)


class Stack:
    """Multilayer perceptrons of one width and depth as one, by products of stacks of matrices. Where a network has fewer
    links than another, zeros stand in. They are trained on the same batches, each by its own loss."""

    def __init__(self, models: list[nn.Module]) -> None:
        self.depth = len(models[0].layers)  # type: ignore[arg-type]
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.picks: list[Tensor] = []
        for i in range(self.depth):
            linears = [next(m for m in model.layers[i] if isinstance(m, nn.Linear)) for model in models]  # type: ignore[index]
            most = max(linear.in_features for linear in linears)
            links = [model.links[str(i)].index if str(i) in model.links else None for model in models]  # type: ignore
            weight = torch.zeros(len(models), linears[0].out_features, most)
            mask = torch.zeros(len(models), 1, most)
            width = most - max((0 if index is None else len(index)) for index in links)
            picks = torch.zeros(len(models), most - width, dtype=torch.int64)
            for k, (linear, index) in enumerate(zip(linears, links, strict=True)):
                weight[k, :, : linear.in_features] = linear.weight.detach()
                mask[k, :, : linear.in_features] = 1
                if index is not None:
                    picks[k, : len(index)] = index
            candidates = width * max(0, i - 1)
            self.picks.append((picks + candidates * torch.arange(len(models))[:, None]).flatten())
            self.weights.append(weight.requires_grad_())
            self.masks.append(mask)
            self.biases.append(torch.stack([linear.bias.detach() for linear in linears])[:, :, None].requires_grad_())

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, features) to (networks, batch, classes)."""
        count, batch = len(self.biases[0]), len(x)
        reads, before, newest = x.flatten(1).T.expand(count, -1, -1), None, None
        for i in range(self.depth):
            if before is not None and len(self.picks[i]):
                picked = before.reshape(-1, batch).index_select(0, self.picks[i]).view(count, -1, batch)
                reads = torch.cat([reads, picked], 1)
            if 1 < i < self.depth - 1:
                reads = F.elu(reads)
            made = torch.baddbmm(self.biases[i], self.weights[i] * self.masks[i], reads)
            if i == 0:
                made = F.elu(made)
            if newest is not None:
                before = newest if before is None else torch.cat([newest, before], 1)
            reads = newest = made
        return made.transpose(1, 2)

    def train(self, data: Dataset, epochs: int, batch: int) -> list[float]:
        """Test accuracies after training with Adam at 1e-3."""
        optimizer = torch.optim.Adam([*self.weights, *self.biases], 1e-3)
        loader = BatchLoader(data.train, batch, data.mean, data.std, shuffle=True, drop_last=True)
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for x, y in loader:
                logits = self(x)
                loss = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)), reduction="sum") / len(y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            test = BatchLoader(data.test, 1000, data.mean, data.std)
            right = sum((self(x).argmax(2) == y).sum(1) for x, y in test)
        return (right / len(data.test)).tolist()  # type: ignore[union-attr]


def check(stack: Stack, models: list[nn.Module], x: Tensor) -> None:
    """The stack computes what the networks do."""
    with torch.no_grad():
        torch.testing.assert_close(stack(x), torch.stack([model(x) for model in models]), rtol=1e-4, atol=1e-5)


def images(part: str, data: Dataset) -> Tensor:
    """What isometry is measured on: pixels from 0 to 1, as in the published code; halved in size for the cells."""
    x = data.test.images[: 100 if part != "cells" else 8].float() / 255  # type: ignore[union-attr]
    return F.avg_pool2d(x, 2)[..., :12, :12] if part == "cells" else x


def rows_of(part: str, width: int, depth: int, data: Dataset, links: list[int]) -> Iterator[dict[str, Any]]:
    """The rows of all networks of one width and depth."""
    nets = [(t, seed, network(part, width, depth, t, seed, data)) for t in links for seed in range(SEEDS)]
    accuracies: list[float | None] = [None] * len(nets)
    if part in EPOCHS:
        models = [model for _, _, model in nets]
        stack = Stack(models)
        check(stack, models, next(iter(BatchLoader(data.test, 20, data.mean, data.std)))[0])
        accuracies = list(stack.train(data, EPOCHS[part], 100 if len(data.train) < 10_000 else 500))
    for (t, seed, model), accuracy in zip(nets, accuracies, strict=True):
        exact = official = None
        if part not in ("linear", "circle"):
            x = images(part, data)
            kind = "batch" if part == "cells" else "running"
            exact = isometry(model, x, batch_norm=kind, exact_side=64, tolerance=0.02, max_probes=8)
            official = isometry(model, x, official=True).mean if part != "cells" else None
        yield {
            "part": part, "width": width, "depth": depth, "links": t, "seed": seed, "mass": cell_mass(width, depth, t),
            "degree": cell_degree(width, depth, t), "params": sum(p.numel() for p in model.parameters()),
            "official": official, "exact": exact.mean if exact else None, "error": exact.error if exact else None,
            "accuracy": accuracy, "data": data.name, "images": len(data.train), "epochs": EPOCHS.get(part),
        }  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {key: value if key in ("part", "data") else float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text.getvalue())


def work(path: Path, only: str | None, root: str | None, units: int | None) -> None:
    """Does what the file lacks, one width and depth at a time, at most ``units`` of them."""
    for part, grid in GRIDS.items():
        if only not in (None, part):
            continue
        data = load({"linear": "linear-20", "circle": "circle-20"}.get(part, "mnist"), root=root)
        for width, depth in dict.fromkeys((w, d) for w, d, _ in grid):
            links = [t for w, d, t in grid if (w, d) == (width, depth)]
            rows = read(path)
            done = sum((r["part"], r["width"], r["depth"]) == (part, width, depth) for r in rows)
            if done >= len(links) * SEEDS:
                continue
            if units is not None:
                units -= 1
                if units < 0:
                    return
            began = time.perf_counter()
            write(path, [*rows, *rows_of(part, width, depth, data, links)])
            say(
                f"{part} width {width} depth {depth}: {len(links) * SEEDS} networks in {time.perf_counter() - began:.0f} s"
            )


# ---- what came of it -----------------------------------------------------------------------------------------------


def means(rows: list[dict[str, Any]], key: str) -> list[dict[str, float]]:
    """One row a network: the mean of ``key`` over seeds, with the least and the largest."""
    groups: dict[tuple[float, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row[key] is not None:
            groups.setdefault((row["width"], row["depth"], row["links"]), []).append(row)
    found = []
    for members in groups.values():
        values = [row[key] for row in members]
        same = {name: members[0][name] for name in ("width", "depth", "links", "mass", "degree", "params")}
        found.append({**same, "mean": sum(values) / len(values), "low": min(values), "high": max(values)})
    return found


def report(rows: list[dict[str, Any]], folder: Path) -> Table:
    """R-squared of each quantity over mass, over the width-aware degree, and over parameters; and the pictures."""
    table = []
    for part in GRIDS:
        mine = [row for row in rows if row["part"] == part]
        for key in ("exact", "official", "accuracy"):
            points = means(mine, key)
            if len(points) < 4:
                continue
            y = [point["mean"] for point in points]
            sizes = [point["params"] for point in points]
            line = fit([p["mass"] for p in points], y, sizes)
            degree = fit([p["degree"] for p in points], y, sizes)
            low, high = line.difference or (None, None)
            table.append({
                "part": part, "quantity": {"exact": "isometry", "official": "isometry (published)"}.get(key, key),
                "networks": len(points), "mass": line.r_squared, "degree": degree.r_squared,
                "params": line.params_r_squared, "low": low, "high": high, "slope": line.slope,
            })  # fmt: skip
            picture(points, folder, part, key)
    columns = [
        Column("part"), Column("quantity"), Column("networks"), Column("mass", "R^2 mass", ".3f", "right"),
        Column("degree", "R^2 degree", ".3f", "right"), Column("params", "R^2 log params", ".3f", "right"),
        Column("low", "low", ".3f", "right"), Column("high", "high", ".3f", "right"),
        Column("slope", "slope over mass", ".5f", "right"),
    ]  # fmt: skip
    notes = [
        "isometry: of the exact Jacobian; (published): of the published code's derivative. Means over 5 seeds",
        "low, high: 95 % bootstrap interval over networks of R^2 mass - R^2 log params",
    ]
    return Table(table, columns, title="what explains isometry at initialisation, and accuracy", notes=notes)


def picture(points: list[dict[str, float]], folder: Path, part: str, key: str) -> None:
    """One line a depth (a width, where widths differ), over mass and over parameters."""
    name = "width" if part == "widths" else "depth"
    label = {"exact": "mean singular value", "official": "mean singular value (published code)"}.get(
        key, "test accuracy"
    )
    for x in ("mass", "params"):
        series: dict[str, list[list[float]]] = {}
        for value in sorted({point[name] for point in points}):
            mine = sorted((p for p in points if p[name] == value), key=lambda p: p[x])
            series[f"{name} {value:g}"] = [[p[k] for p in mine] for k in (x, "mean", "low", "high")]
        axis = "NN-Mass" if x == "mass" else "parameters"
        lines_plot(
            series, folder / f"{part}-{key}-{x}.png", x_label=axis, y_label=label, title=f"{part}: band over seeds"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", default="results/isometry", type=Path)
    parser.add_argument("--data-root")
    parser.add_argument("--only", choices=list(GRIDS))
    parser.add_argument("--units", type=int, help="stop after so many widths and depths")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = arguments.results / "rows.csv"
    if not arguments.show:
        work(path, arguments.only, arguments.data_root, arguments.units)
    table = report(read(path), arguments.results)
    table.notes.append(f"torch {torch.__version__}, {environment().get('cpu', '')}")
    print(table.to_json() if arguments.json else table)


if __name__ == "__main__":
    main()
