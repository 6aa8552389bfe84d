"""A pruning claim's test accuracy against density: a line a score, shaded between its lowest and highest seed, and dense.

    python benchmarks/density.py pruning-at-init

writes results/CLAIM/density.md and density.png from the finished rows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import precut
from precut._files import atomic_write
from precut.experiments import load_claim, read_rows
from precut.report import Column, Table, lines_plot, percent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    claim = load_claim(arguments.claim)
    folder = arguments.results / claim.name
    dense: list[float] = []
    found: dict[str, dict[float, list[float]]] = {}
    for row in read_rows(folder / "rows.csv"):
        accuracy = 100 * float(row["test_accuracy"])
        if not row["prune"]:
            dense.append(accuracy)
            continue
        density = json.loads(row["prune"])["density"]
        method = row["run"].removesuffix(f"-{density:g}")
        found.setdefault(method, {}).setdefault(density, []).append(accuracy)
    if not found:
        raise precut.PrecutError(f"no pruned run is finished: precut reproduce {claim.name}")
    densities = sorted({density for cells in found.values() for density in cells}, reverse=True)
    rows = [{"method": name, **{f"{d:g}": _told(cells.get(d, [])) for d in densities}} for name, cells in found.items()]
    if dense:
        rows.insert(0, {"method": "dense", "1": _told(dense)})
        densities.insert(0, 1.0)
    columns = [Column("method"), *(Column(f"{d:g}", percent(d), align="right") for d in densities)]
    notes = ["test accuracy in %; mean (lowest to highest) where there is more than one seed"]
    table = Table(rows, columns, title=f"{claim.name}: accuracy against density", notes=notes)
    print(table)
    series = {}
    for name, cells in found.items():
        ordered = sorted(cells.items())
        series[name] = [
            [density for density, _ in ordered],
            *([measure(values) for _, values in ordered] for measure in (mean, min, max)),
        ]
    if dense:
        ends = [min(densities), max(d for d in densities if d < 1)]
        series["dense"] = [ends, *([measure(dense)] * 2 for measure in (mean, min, max))]
    atomic_write(folder / "density.md", table.to_markdown())
    lines_plot(series, folder / "density.png", x_label="density (kept weights)", y_label="test accuracy, %", log_x=True)


def _told(values: list[float]) -> str | None:
    if not values:
        return None
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
