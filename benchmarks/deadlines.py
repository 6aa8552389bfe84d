"""Deadlines on real networks: saved models are compiled and profiled, runs are recorded under real load, and every policy
is replayed on the recordings. Each step is a call of its own, so that the machine can be kept quiet for it:

    python benchmarks/deadlines.py profile runs/budget-frontier/*/ --data-root DATA
    python benchmarks/deadlines.py record idle
    python benchmarks/deadlines.py record stress
    python benchmarks/deadlines.py record bursts
    python benchmarks/selector.py --out results/deadlines/selector.jsonl
    python benchmarks/deadlines.py replay          # writes results/deadlines/

The models' accuracies are measured on the compiled networks, on the validation images that training held out. A request
is a batch of images; its deadline is drawn uniformly. Points are the models that no other beats in median time and
accuracy when the machine is idle.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

from precut._files import atomic_write
from precut.deadline import Frontier, Point, Profile, Replay, Trace, load_targets, policies, profile, record, replay

LOADS = ("idle", "stress", "bursts")
SHOWN = ("conformal", "mean-time", "static-p99", "clairvoyant")
KEYS = (
    "accuracy", "law_accuracy", "regret", "broken_per_promise", "broken", "promised", "withheld", "infeasible", "probed",
    "abstained", "oracle_infeasible", "law_infeasible", "miss_rate", "accuracy_in_time", "late_p99_ms",
    "switches_per_1000", "overhead_p50_us", "overhead_p99_us",
)  # fmt: skip


def measure(arguments: argparse.Namespace) -> None:
    """Profiles all models; says which are kept."""
    paths = [path for path in map(Path, arguments.models) if path.is_file() or (path / "model.safetensors").is_file()]
    targets, example = load_targets(
        paths, data_root=arguments.data_root, batch=arguments.batch, threads=arguments.threads
    )
    found = profile(
        targets,
        example,
        batches=[arguments.batch],
        rounds=arguments.rounds,
        conditions={"engine_threads": arguments.threads, "models": [str(path) for path in paths]},
    )
    found.save(arguments.work / "profile.json")
    print(found)
    print(Frontier(found.points, "p50", batch=arguments.batch))


def kept(arguments: argparse.Namespace, runs: dict[str, Any] | None = None) -> tuple[list[Point], Profile]:
    """The profile's points that are worth keeping."""
    found = Profile.load(arguments.work / "profile.json", runs)
    return Frontier(found.points, "p50", batch=arguments.batch).points, found


def run(arguments: argparse.Namespace) -> None:
    """Records one load."""
    _, found = kept(arguments)
    names = [point.name for point in kept(arguments)[0]]
    models = {path.parent.name if path.stem == "model" else path.stem: path for path in _files(found)}
    targets, example = load_targets(
        [models[name] for name in names],
        data_root=arguments.data_root,
        batch=arguments.batch,
        threads=arguments.threads,
    )
    points, _ = kept(arguments, {target.name: target.run for target in targets})
    trace = record(
        points,
        example,
        arguments.requests,
        load=arguments.load,
        deadlines_s=(arguments.deadlines_ms[0] * 1e-3, arguments.deadlines_ms[1] * 1e-3),
        gap_s=arguments.gap_ms * 1e-3,
        batch=arguments.batch,
        seed=arguments.seed,
    )
    print(trace.write(arguments.work / f"trace-{arguments.load}.parquet"))


def _files(found: Profile) -> list[Path]:
    paths = [Path(path) for path in found.environment["models"]]
    return [path / "model.safetensors" if path.is_dir() else path for path in paths]


def judge(arguments: argparse.Namespace) -> None:
    """Replays all policies on all recordings; at other deadlines too."""
    points, found = kept(arguments)
    names = [point.name for point in points]
    low, high = arguments.deadlines_ms
    spans = {"as set": (low, high), "half": (low / 2, high / 2), "twice": (2 * low, 2 * high)}
    rows: list[dict[str, Any]] = []
    parts = [_head(arguments, found, points)]
    for load in LOADS:
        path = arguments.work / f"trace-{load}.parquet"
        if not path.is_file():
            continue
        recorded = Trace.read(path).only(names)
        for span, (first, last) in spans.items():
            trace = recorded.with_deadlines(first * 1e-3, last * 1e-3, seed=arguments.seed)
            report = replay(trace, points, list(policies))
            rows += _rows(report, load, span, first, last)
            if span == "as set":
                report.plot(arguments.results / f"{load}.png", list(SHOWN))
                parts.append(f"## {load}\n\n{_table(report)}")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(arguments.results / "rows.csv", text.getvalue())
    parts.insert(1, _summary(rows))
    parts.append(_sensitivity(rows))
    parts += _cost(arguments.results / "selector.jsonl")
    atomic_write(arguments.results / "README.md", "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


def _rows(report: Replay, load: str, span: str, low: float, high: float) -> list[dict[str, Any]]:
    law = next(row for row in report.rows if row["policy"] == "law-oracle")
    made = []
    for row in report.rows:
        known = {**row, "law_accuracy": law["accuracy"], "law_infeasible": law["infeasible"]}
        made.append(
            {"load": load, "deadlines": span, "low_ms": low, "high_ms": high, "policy": row["policy"]}
            | {key: f"{known[key]:.6g}" for key in KEYS}
            | {"requests": row["requests"]}
        )
    return made


def _table(report: Replay) -> str:
    table = report.table()
    table.title = ""
    return table.to_markdown().strip()


def _head(arguments: argparse.Namespace, found: Profile, points: list[Point]) -> str:
    where = found.environment
    lines = [
        "# Deadlines on recorded traces",
        f"{where['cpu']}, {where['cores']} cores, {'virtual machine, ' if where['virtual'] else ''}torch "
        f"{where['versions']['torch']}; CIFAR-10 networks of `budget-frontier`, compiled by `precut.compile`, "
        f"{where['engine_threads']} threads, batch {arguments.batch}; accuracy on the 5,000 validation images. Every request "
        f"ran on every point, in random order; deadlines {arguments.deadlines_ms[0]:g} to {arguments.deadlines_ms[1]:g} ms "
        "after arrival, uniformly; miss budget 1 %. Stress: one process that spins; bursts: the same, resting 4 s and "
        "spinning 2 s on average. `law-oracle` knows each point's latency distribution on the very trace, `clairvoyant` "
        "each single latency. Made by `benchmarks/deadlines.py`; all figures, at other deadlines too, in `rows.csv`.",
        "| point | accuracy % | p50 ms | p99 ms | upper bound of p99 |\n|---|---:|---:|---:|---:|\n"
        + "\n".join(
            f"| {point.name} | {100 * point.accuracy:.2f} | "
            + " | ".join(f"{1e3 * point.time(name, arguments.batch):.2f}" for name in ("p50", "p99", "p99_ucb"))
            + " |"
            for point in points
        ),
    ]
    return "\n\n".join(lines)


def _summary(rows: list[dict[str, Any]]) -> str:
    """The selector beside what it is asked for, and beside the rule of average times."""
    lines = [
        "| load | broken promises % | abstained % (no point in time) | delivered % (law oracle, clairvoyant) | "
        "`mean-time`: broken %, delivered % |\n|---|---:|---:|---:|---:|"
    ]
    for load in dict.fromkeys(row["load"] for row in rows):
        own, mean, best = (
            next(row for row in rows if (row["load"], row["deadlines"], row["policy"]) == (load, "as set", policy))
            for policy in ("conformal", "mean-time", "clairvoyant")
        )
        figures = {key: 100 * float(own[key]) for key in KEYS if key not in ("broken",)}
        lines.append(
            f"| {load} | {figures['broken_per_promise']:.2f} | "
            f"{figures['abstained']:.1f} ({figures['oracle_infeasible']:.1f}) | "
            f"{figures['accuracy']:.2f} ({figures['law_accuracy']:.2f}, {100 * float(best['accuracy']):.2f}) | "
            f"{100 * float(mean['broken_per_promise']):.1f}, {100 * float(mean['accuracy']):.2f} |"
        )
    return "\n".join(lines)


def _sensitivity(rows: list[dict[str, Any]]) -> str:
    lines = [
        "## The same recordings at other deadlines",
        "Where few requests can be promised, the constant of the guarantee (3 broken promises) weighs more than its 1 %.",
        "| load | deadlines ms | policy | delivered % | broken % | abstained % | law oracle: delivered % | infeasible % |\n"
        "|---|---|---|---:|---:|---:|---:|---:|\n"
        + "\n".join(
            f"| {row['load']} | {row['low_ms']:g}-{row['high_ms']:g} | {row['policy']} | {100 * float(row['accuracy']):.2f} | "
            f"{100 * float(row['broken_per_promise']):.2f} | {100 * float(row['abstained']):.1f} | "
            f"{100 * float(row['law_accuracy']):.2f} | {100 * float(row['law_infeasible']):.1f} |"
            for row in rows
            if row["policy"] in ("conformal", "mean-time")
        ),
    ]
    return "\n\n".join(lines)


def _cost(path: Path) -> list[str]:
    """What benchmarks/selector.py added to the results."""
    if not path.is_file():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines()]
    lines = ["## What choosing costs", "`benchmarks/selector.py`, `choose` + `observe` from Python, 16 points:"]
    for one in found:
        if "p99_us" in one:
            beside = ""
            if "fixed_p99_us" in one:
                beside = (
                    f"; in the same run a loop of fixed arithmetic took p50 {one['fixed_p50_us']:.1f}, "
                    f"p99 {one['fixed_p99_us']:.1f} us"
                )
            lines.append(
                f"- {one['rounds']:,} decisions: p50 {one['p50_us']:.1f}, p99 {one['p99_us']:.1f}, "
                f"p99.9 {one['p99.9_us']:.1f} us ({one['cpu']}, CPython {one['python']}{beside})"
            )
        else:
            peaks = ", ".join(f"{kb / 1000:.1f}" for kb in one["peak_kb"])
            lines.append(f"- {one['rounds']:,} decisions: peak memory of the process at ten moments, MB: {peaks}")
    return ["\n".join([*lines[:1], "", lines[1], "", *lines[2:]])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    one = steps.add_parser("profile")
    one.add_argument("models", nargs="+")
    one.add_argument("--rounds", type=int, default=1000)
    two = steps.add_parser("record")
    two.add_argument("load", choices=LOADS)
    two.add_argument("--requests", type=int, default=3000)
    two.add_argument("--gap-ms", type=float, default=40.0)
    three = steps.add_parser("replay")
    three.add_argument("--results", type=Path, default=Path("results/deadlines"))
    for step in (one, two, three):
        step.add_argument("--work", type=Path, default=Path("runs/deadlines"))
        step.add_argument("--batch", type=int, default=32)
        step.add_argument("--threads", type=int, default=2)
        step.add_argument("--seed", type=int, default=0)
        step.add_argument("--data-root")
        step.add_argument("--deadlines-ms", type=float, nargs=2, default=(4.5, 10.0))
    arguments = parser.parse_args()
    {"profile": measure, "record": run, "replay": judge}[arguments.step](arguments)


if __name__ == "__main__":
    main()
