"""Dynamic networks, measured: the published ladder's shape, switching, and the points of a trained ladder.

    python benchmarks/dynamic.py ladder --batch 1 --threads 1 --out results/dynamic-ladder
    python benchmarks/dynamic.py switch --out results/dynamic-switching
    python benchmarks/dynamic.py points dynamic-subnets

``ladder``: an untrained ResNet-18 at 224 pixels, four non-uniform points at the relative budgets of the published GPU
times (13.4 / 24.6 / 41.3 / 62.1 ms), in precut's engine and in every other installed one, in turns.
``switch``: ``set_point`` and the first forward after it, against loading another model; bytes of the ladder against those
of separate models. ``points``: every point of a claim's ladders, timed in turns, beside the accuracies of its finished rows;
joint beside alone, as results/CLAIM/points-*.md, .json and pictures, with those of each ladder's widths.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import precut
from precut import runtime
from precut._environment import environment
from precut._files import atomic_write
from precut.bench import bench, engines, installed
from precut.deadline import profile
from precut.dynamic import DynamicNet, load, make_dynamic, plot_accuracy, plot_widths, targets, widths_table
from precut.experiments import load_claim, read_rows
from precut.report import Column, Table, byte_size, duration, percent, si

PUBLISHED_GPU_MS = (62.1, 41.3, 24.6, 13.4)
PUBLISHED_CPU_MS = (65.4, 51.0, 38.7, 30.5)
ALONE_OF = "joint"  # the ladder whose subnets were trained alone too


def untrained(side: int, batch: int) -> tuple[DynamicNet, torch.Tensor]:
    """The four points, with statistics of noise: only shapes and speed matter here."""
    torch.manual_seed(0)
    x = torch.randn(batch, 3, side, side)
    dyn = make_dynamic(precut.create_model("resnet18", num_classes=1000, input_size=side), x[:1])
    dyn.ladder([time / PUBLISHED_GPU_MS[0] for time in PUBLISHED_GPU_MS])
    dyn.recalibrate(dyn.points[1:], torch.randn(4, 3, side, side))
    return dyn.eval(), x


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write(folder: str | None, name: str, table: Table, data: Any) -> None:
    print(table)
    if folder is not None:
        atomic_write(Path(folder) / f"{name}.md", table.to_markdown())
        atomic_write(Path(folder) / f"{name}.json", json.dumps(data, indent=2) + "\n")


def ladder(arguments: argparse.Namespace) -> None:
    dyn, x = untrained(arguments.side, arguments.batch)
    names = [name for name in engines if name in arguments.engines.split(",") and installed(name)]
    rows: list[dict[str, Any]] = []
    raw = []
    for number, point in enumerate(dyn.points):
        found = bench(
            {f"point {number}": dyn.extract(point)}, x, arguments.threads, names, arguments.rounds, progress=say
        )
        raw.append(found.to_dict())
        for row in found.table().rows:
            first = next((r for r in rows if r["engine"] == row["engine"]), row)
            kept = {key: row[key] for key in ("engine", "macs", "median", "speedup", "low", "high")}
            rows.append({"point": number, **kept, "of full": row["median"] / first["median"]})
            rows[-1] |= {"published": (PUBLISHED_CPU_MS[number] / PUBLISHED_CPU_MS[0])}
    columns = [
        Column("point"),
        Column("engine"),
        Column("macs", "counted MACs", si, "right"),
        Column("median", format=duration, align="right"),
        Column("of full", format=percent, align="right"),
        Column("published", "published (CPU)", percent, "right"),
        Column("speedup", "over the fastest other", ".2f", "right"),
        Column("low", "90 % low", ".2f", "right"),
        Column("high", "90 % high", ".2f", "right"),
    ]
    where = environment()
    notes = [
        f"measured: {arguments.rounds} interleaved rounds for each point, a process for each engine, stopped between its "
        f"turns; batch {arguments.batch}, {arguments.side} pixels, {arguments.threads} thread(s), {where['cpu']}; untrained "
        "weights (no accuracy is claimed)",
        "published (CPU): 65.4 / 51 / 38.7 / 30.5 ms on a Xeon, Yang et al., DAC 2020, as shares of the largest; its points "
        "were other ones",
        *(f"{name}: {row['versions'].get(name)}" for row in raw[:1] for name in row["versions"]),
    ]
    print(widths_table(dyn))
    data = {"points": [point.to_dict() for point in dyn.points], "benches": raw, "environment": where}
    name = f"resnet18-{arguments.side}px-batch{arguments.batch}-threads{arguments.threads}"
    write(arguments.out, name, Table(rows, columns, notes=notes), data)


def quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"median": ordered[len(ordered) // 2], "p99": ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]}


def switch(arguments: argparse.Namespace) -> None:
    dyn, x = untrained(arguments.side, 1)
    fast = dyn.compile(threads=arguments.threads)
    small, large = dyn.points[-1], dyn.points[0]
    rows: list[dict[str, Any]] = []

    def add(what: str, seconds: list[float]) -> None:
        rows.append({"what": what, "calls": len(seconds), **quantiles(seconds)})

    def timed(call: Any, before: Any = lambda: None, calls: int = arguments.calls) -> list[float]:
        found = []
        for _ in range(calls):
            before()
            start = time.perf_counter_ns()
            call()
            found.append((time.perf_counter_ns() - start) * 1e-9)
        return found

    with torch.no_grad():
        for net, name in ((dyn, "uncompiled"), (fast, "compiled")):
            for point in (large, small):
                net.set_point(point)  # type: ignore[attr-defined]
                net(x)
            add(f"{name}: set_point", timed(lambda n=net: n.set_point(small), lambda n=net: n.set_point(large), 2000))
            net.set_point(small)  # type: ignore[attr-defined]
            add(f"{name}: forward of the smallest, staying", timed(lambda n=net: n(x)))

            def first(n: Any = net) -> None:
                n.set_point(small)
                n(x)

            def away(n: Any = net) -> None:
                n.set_point(large)
                n(x)

            add(f"{name}: set_point and first forward", timed(first, away))
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "small.safetensors"
            net = dyn.extract(small)
            precut.save(net, file)
            add("precut.load of the smallest and first forward", timed(lambda: precut.load(file)(x), gc.collect, 20))
            if runtime.available():
                fast.save(scratch)
                data, image = Path(scratch) / f"{len(dyn.points) - 1}.precut", x.numpy()

                def reopened() -> None:
                    with runtime.load(data, threads=arguments.threads) as model:
                        model.run(image)

                add("native file opened again and first forward", timed(reopened, gc.collect, 20))
            whole = dyn.save(Path(scratch) / "all.safetensors").stat().st_size
            apart = sum(precut.save(dyn.extract(p), file).stat().st_size for p in dyn.points)
    table = fast.bytes()
    uncompiled = fast.bytes_full + table.totals[0]["own"]
    columns = [Column("what"), Column("calls"), Column("median", format=duration), Column("p99", format=duration)]
    where = environment()
    notes = [
        f"measured: one process, {arguments.threads} thread(s), batch 1, {arguments.side} pixels, four points of ResNet-18; "
        f"{where['cpu']}, torch {where['versions']['torch']}",
        f"files: the whole ladder {byte_size(whole)}, its points as separate models {byte_size(apart)}",
        f"memory of weights and buffers: the whole ladder {byte_size(uncompiled)} uncompiled; compiled, points share none: "
        f"{byte_size(table.totals[0]['packed'])} packed and {byte_size(table.totals[0]['canonical'])} canonical",
    ]
    data = {
        "rows": rows,
        "file_bytes": whole,
        "separate_file_bytes": apart,
        "bytes": table.to_dict(),
        "environment": where,
    }
    write(arguments.out, "switching", Table(rows, columns, notes=notes), data)


def points(arguments: argparse.Namespace) -> None:
    claim = load_claim(arguments.claim)
    finished = read_rows(arguments.results / claim.name / "rows.csv")
    accuracies = _accuracies(finished)
    ladders, timed_targets = {}, []
    for name in dict.fromkeys(row["run"] for row in finished if row["points"]):
        folder = arguments.runs_dir / claim.name / f"{name}-s0"
        dyn = load(folder / "model.safetensors")
        ladders[name] = json.loads((folder / "points.json").read_text())
        plot_widths(dyn, arguments.results / claim.name / f"widths-{name}.png")
        compiled = dyn.compile(threads=arguments.threads)
        x = torch.randn(arguments.batch, *dyn.graph.inputs[0].shape[1:])
        known = [row["test_accuracy"] for row in ladders[name]]
        timed_targets += [replace(t, name=f"{name} {t.name}") for t in targets(compiled, known)]
    if not ladders:
        raise precut.PrecutError(f"no joint training is finished: precut reproduce {claim.name}")
    found = profile(timed_targets, x, batches=(arguments.batch,), rounds=arguments.rounds)
    timed = {point.name: point for point in found.points}
    told = []
    for name, by_point in accuracies.items():
        for number, shares in sorted(by_point.items()):
            # A subnet trained alone is the same network as its ladder's point: one time stands for both.
            ladder = name if name in ladders else ALONE_OF
            row, clock = ladders[ladder][number], timed[f"{ladder} {number}"]
            told.append(
                {
                    "point": number,
                    "training": name,
                    "macs": row["macs"],
                    "params": row["params"],
                    "accuracy": mean(shares),
                    "low": min(shares),
                    "high": max(shares),
                    "seeds": len(shares),
                    "latency_ms": 1e3 * clock.time("p50", arguments.batch),
                    "p99_ms": 1e3 * clock.time("p99", arguments.batch),
                }
            )
    columns = [
        Column("point"),
        Column("training"),
        Column("macs", "counted MACs", si, "right"),
        Column("params", format=",", align="right"),
        Column("accuracy", "test %", hundredths, "right"),
        Column("low", "lowest", hundredths, "right"),
        Column("high", "highest", hundredths, "right"),
        Column("seeds", align="right"),
        Column("latency_ms", "median ms", ".3f", "right"),
        Column("p99_ms", "p99 ms", ".3f", "right"),
    ]
    notes = [
        f"measured: accuracy on the test split; {arguments.rounds} interleaved calls of the compiled points of seed 0, batch "
        f"{arguments.batch}, {arguments.threads} thread(s), {found.environment['cpu']}",
        f"alone: the subnets of {ALONE_OF!r}, whose times stand there too",
    ]
    name = f"points-batch{arguments.batch}-threads{arguments.threads}"
    folder = str(arguments.results / claim.name)
    told.sort(key=lambda row: row["point"])
    write(folder, name, Table(told, columns, notes=notes), {"rows": told, "environment": dict(found.environment)})
    plot_accuracy(told, Path(folder) / "macs.png")
    plot_accuracy(told, Path(folder) / f"latency-batch{arguments.batch}-threads{arguments.threads}.png", x="latency_ms")


def hundredths(share: float) -> str:
    return f"{100 * share:.2f}"


def _accuracies(finished: list[dict[str, str]]) -> dict[str, dict[int, list[float]]]:
    """Training ("alone" for all subnets by themselves) to point to the seeds' test accuracies."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in finished:
        settings = json.loads(row["dynamic"])
        if row["points"]:
            for number, point in enumerate(json.loads(row["points"])):
                found.setdefault(row["run"], {}).setdefault(number, []).append(point["test_accuracy"])
        elif settings["alone"] == ALONE_OF:
            found.setdefault("alone", {}).setdefault(settings["point"], []).append(float(row["test_accuracy"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function in (ladder, switch, points):
        one = commands.add_parser(function.__name__)
        one.set_defaults(function=function)
        one.add_argument("--threads", type=int, default=1)
        if function is not points:
            one.add_argument("--side", type=int, default=224)
            one.add_argument("--out", metavar="FOLDER", help="where to write the table and the raw numbers")
        if function is not switch:
            one.add_argument("--batch", type=int, default=1)
            one.add_argument("--rounds", type=int, default=40 if function is ladder else 500)
        if function is ladder:
            one.add_argument("--engines", default="precut,openvino,torch,onnxruntime")
        if function is switch:
            one.add_argument("--calls", type=int, default=200)
        if function is points:
            one.add_argument("claim", help="of joint trainings and of subnets alone")
            one.add_argument("--runs-dir", type=Path, default=Path("runs"))
            one.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.function(arguments)


if __name__ == "__main__":
    main()
