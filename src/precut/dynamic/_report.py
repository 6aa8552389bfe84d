"""Tables and pictures of a ladder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.dynamic._metrics import cost, example_of
from precut.engine import compile as compile_model
from precut.errors import PrecutError
from precut.report import Column, Table, count, lines_plot, pareto_plot, percent, si

if TYPE_CHECKING:
    from precut.dynamic._net import DynamicNet
    from precut.dynamic._point import Point

__all__ = ["ladder_table", "plot_accuracy", "plot_widths", "widths_table"]


def ladder_table(dyn: DynamicNet, accuracies: Sequence[float] | None = None) -> Table:
    """One row a point of ``dyn.points``: counted parameters and multiply-adds beside the full network's, and what else
    it leaves out.

    Args:
        accuracies: of each point, from 0 to 1.
    """
    points = dyn.points or (dyn.full,)
    if accuracies is not None and len(accuracies) != len(points):
        raise PrecutError(f"ladder_table needs {len(points)} accuracies, one for each point; got {len(accuracies)}")
    full = {metric: cost(dyn, dyn.full, metric) for metric in ("params", "macs")}
    rows = []
    for number, point in enumerate(points):
        held, done = cost(dyn, point, "params"), cost(dyn, point, "macs")
        rows.append(
            {
                "point": number,
                "params": int(held),
                "macs": int(done),
                "share": done / full["macs"],
                "resolution": point.resolution,
                "skipped": ", ".join(point.skipped) or None,
                "kss": ", ".join(str(size) for size in sorted({size for _, size in point.kss})) or None,
                "calibrated": dyn.calibrated(point),
                "accuracy": None if accuracies is None else accuracies[number],
            }
        )
    columns = [
        Column("point"),
        Column("params", format=count, align="right"),
        Column("macs", "MACs", si, "right"),
        Column("share", "of full", percent, "right"),
        Column("resolution", "pixels"),
        Column("skipped"),
        Column("kss"),
        Column("calibrated"),
        Column("accuracy", "accuracy %", lambda share: f"{100 * share:.2f}", "right"),
    ]
    drawn = [column for column in columns if any(row[column.key] is not None for row in rows)]
    kept = [{column.key: row[column.key] for column in drawn} for row in rows]
    return Table(kept, drawn, title=f"{len(rows)} points", notes=["counted: params, MACs of one example"])


def widths_table(dyn: DynamicNet, points: Iterable[Point] | None = None, ops: bool = False) -> Table:
    """One row a width dimension: its channels in every point, its period, and what makes and reads it.

    Args:
        points: by default ``dyn.points``.
        ops: compile every point, and tell which operator of the engine runs the layer at each width.
    """
    chosen = list(dyn.points or (dyn.full,)) if points is None else [dyn.space.check(point) for point in points]
    kernels = [_kernels(dyn, point) for point in chosen] if ops else []
    rows = []
    for name, dim in dyn.space.widths.items():
        row: dict[str, Any] = {"layer": name, "period": dim.period}
        for number, point in enumerate(chosen):
            row[f"p{number}"] = point.width(name)
            if ops:
                row[f"op{number}"] = kernels[number].get(name.split("#")[0])
        rows.append(row)
    columns = [Column("layer"), Column("period", align="right")]
    for number in range(len(chosen)):
        columns.append(Column(f"p{number}", f"point {number}", align="right"))
        columns += [Column(f"op{number}", "by")] if ops else []
    notes = [f"layer {name!r} is not cut: {why}" for name, why in dyn.space.fixed.items()]
    return Table(rows, columns, title="channels of every point", notes=notes[:8])


def _kernels(dyn: DynamicNet, point: Point) -> dict[str, str]:
    net = dyn.extract(point, uncalibrated=True).float()
    told = compile_model(net, tuple(item.float() for item in example_of(dyn, point)), threads=1, autotune=False)
    return {str(row["name"]): str(row["kernel"]) for row in told.explain().rows}


def plot_accuracy(
    rows: Iterable[Mapping[str, Any]], path: str | Path, x: str = "macs", group: str = "training", log_x: bool = False
) -> Path:
    """Draws accuracy against cost for every point: joint beside alone.

    Args:
        rows: with ``x``, "accuracy" (0 to 1), ``group`` and, for labels, "point".
        path: of the picture; .png, .svg or .pdf.
        x: "macs", "latency_ms", ...
        log_x: a logarithmic axis.
    """
    drawn = [{**row, "accuracy_percent": 100 * row["accuracy"]} for row in rows if row.get("accuracy") is not None]
    names = {"macs": "multiply-adds of one image (counted)", "latency_ms": "ms a call (measured median)"}
    return pareto_plot(
        drawn,
        path,
        x=x,
        y="accuracy_percent",
        group=group,
        x_label=names.get(x, x),
        y_label="test accuracy, %",
        log_x=log_x,
    )


def plot_widths(dyn: DynamicNet, path: str | Path) -> Path:
    """Draws the share of every dimension that each point of ``dyn.points`` keeps."""
    if not dyn.points or not dyn.space.widths:
        raise PrecutError("plot_widths needs a ladder of a network with width dimensions: call dyn.ladder(...) first")
    numbers = list(range(len(dyn.space.widths)))
    series = {
        f"point {place}": (numbers, [point.width(name) / dim.size for name, dim in dyn.space.widths.items()])
        for place, point in enumerate(dyn.points)
    }
    return lines_plot(series, path, x_label="width dimension, in the network's order", y_label="share of channels kept")
