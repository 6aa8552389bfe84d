"""What a study of `precut search` found, with its candidates' times measured side by side afterwards:

    precut search ... --name cifar-family                  # the head of search-cifar.yaml
    python benchmarks/search.py models runs/cifar-family   # the finished candidates, to be given to
    precut profile $(...) --data cifar10 --data-root DATA --split test --batch 32 --rounds 300 --name cifar-family-times
    python benchmarks/search.py report runs/cifar-family runs/cifar-family-times/profile.json --out results/search

The report is tables on standard output, and rows.csv, frontier.json and pictures in the folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from precut._files import atomic_write
from precut.deadline import Frontier, Point, Profile
from precut.report import Column, Table, pareto_front, pareto_plot, percent, si

SHAPE = ("model", "width_mult", "resolution")
KEPT = ("cpu", "cpu_flags", "cores", "device", "python", "versions", "virtual", "engine_threads", "split")


def trials(folder: Path) -> list[dict[str, Any]]:
    """Every trial of the study: state, choices, what was measured, when, and in whose folder."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = json.loads((folder / "search.json").read_text())["plan"]
    study = optuna.load_study(study_name=plan["name"], storage=f"sqlite:///{(folder / 'study.db').resolve()}")
    everything = study.get_trials(deepcopy=False)
    begun_again = {number for trial in everything for number in trial.system_attrs.get("precut_begun_before", ())}
    first = min(trial.datetime_start for trial in everything if trial.datetime_start)
    rows = []
    for trial in everything:
        state = {"COMPLETE": "finished", "PRUNED": "halved"}.get(trial.state.name, trial.state.name.lower())
        state = "begun again" if trial.number in begun_again else state
        facts = trial.user_attrs.get("facts", {})
        number = trial.system_attrs.get("precut_begun_before", [trial.number])[0]
        rung = trial.user_attrs.get("rung 0")
        rows.append(
            {
                "trial": trial.number,
                "state": state,
                **trial.params,
                "params": facts.get("params"),
                "macs": facts.get("macs"),
                "accuracy_at_rung": rung and rung[1],
                "val_accuracy": trial.values[1] if state == "finished" else None,
                "study_p10_ms": 1e3 * (trial.values[0] if state == "finished" else rung[0]) if rung else None,
                "began_s": round((trial.datetime_start - first).total_seconds()) if trial.datetime_start else None,
                "ended_s": round((trial.datetime_complete - first).total_seconds())
                if trial.datetime_complete
                else None,
                "run": f"trial-{number}",
            }
        )
    return rows


def spearman(pairs: list[tuple[float, float]]) -> float:
    """Rank correlation; no two values are equal."""
    ranks = [{value: rank for rank, value in enumerate(sorted(pair[side] for pair in pairs))} for side in (0, 1)]
    n = len(pairs)
    return 1 - 6 * sum((ranks[0][a] - ranks[1][b]) ** 2 for a, b in pairs) / (n * (n * n - 1))


def best_within(rivals: list[dict[str, Any]], key: str, limit: float) -> dict[str, Any] | None:
    """The most accurate of those that cost at most so much."""
    able = [row for row in rivals if row[key] <= limit]
    return max(able, key=lambda row: row["test"]) if able else None


def against_dense(rows: list[dict[str, Any]]) -> Table:
    """By kind of support: accuracy beside the best dense candidate of the study at the same time, MACs, parameters."""
    dense = [row for row in rows if row["support"] == "dense"]
    found = []
    for kind in dict.fromkeys(row["support"] for row in rows if row["support"] != "dense"):
        own = [row for row in rows if row["support"] == kind]
        line: dict[str, Any] = {"support": kind, "candidates": len(own)}
        for key in ("p50_ms", "macs", "params"):
            gaps = [100 * (row["test"] - rival["test"]) for row in own if (rival := best_within(dense, key, row[key]))]
            line[key] = (
                f"{statistics.median(gaps):+.1f} ({min(gaps):+.1f} to {max(gaps):+.1f}), {sum(g > 0 for g in gaps)} of "
                f"{len(gaps)}"
                if gaps
                else "-"
            )
        found.append(line)
    columns = [Column("support"), Column("candidates", "finished")]
    columns += [Column("p50_ms", "at the same time"), Column("macs", "at the same MACs")]
    return Table(found, [*columns, Column("params", "at the same parameters")])


def same_shape(rows: list[dict[str, Any]]) -> Table:
    """Sparse candidates beside the dense one of the same depth, width and resolution."""
    dense = {tuple(row[key] for key in SHAPE): row for row in rows if row["support"] == "dense"}
    found = []
    for row in rows:
        twin = dense.get(tuple(row[key] for key in SHAPE))
        if row["support"] == "dense" or twin is None:
            continue
        found.append(
            {
                **{key: row[key] for key in (*SHAPE, "support")},
                "macs": row["macs"] / twin["macs"],
                "time": row["p50_ms"] / twin["p50_ms"],
                "points": 100 * (row["test"] - twin["test"]),
            }
        )
    found.sort(key=lambda row: (row["support"], *(str(row[key]) for key in SHAPE)))
    columns = [*(Column(key) for key in (*SHAPE, "support")), Column("macs", "MACs", percent, "right")]
    return Table(
        found, [*columns, Column("time", format=percent, align="right"), Column("points", "points", "+.1f", "right")]
    )


def report(arguments: argparse.Namespace) -> None:
    everything = trials(arguments.study)
    found = Profile.load(arguments.profile, other_machine=True)
    points = {point.name: point for point in found.points}
    batch = found.points[0].batches[-1]
    rows = []
    for row in everything:
        point = points.get(row["run"]) if row["state"] == "finished" else None
        row["p50_ms"] = point and 1e3 * point.time("p50", batch)
        row["p99_ms"] = point and 1e3 * point.time("p99", batch)
        row["test"] = point and point.accuracy
        if point:
            rows.append(row)
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "rows.csv", Table(everything).to_csv())
    by_run = {row["run"]: row for row in rows}

    where = {key: found.environment[key] for key in KEPT if key in found.environment}
    frontier = Frontier(found.points, "p50", batch=batch)
    small = [Point(p.name, p.accuracy, {batch: p.samples[batch]}, memory_bytes=p.memory_bytes) for p in frontier]
    kept = Frontier(small, "p50", batch=batch, environment=where)
    atomic_write(out / "frontier.json", json.dumps({**kept.to_dict(), "choices": {
        p.name: {key: by_run[p.name][key] for key in (*SHAPE, "support", "params", "macs")} for p in kept
    }}) + "\n")  # fmt: skip
    pairs = [(row["study_p10_ms"], row["p50_ms"]) for row in rows]
    study_front = [rows[i] for i in pareto_front([(row["study_p10_ms"], row["val_accuracy"]) for row in rows])]
    marks = {row["point"]: row["mark"] for row in frontier.table().rows}
    shown = ("run", *SHAPE, "support", "macs", "params", "p50_ms", "p99_ms", "test", "val_accuracy")
    lines = [
        {
            **{key: by_run[p.name][key] for key in shown},
            "mark": marks[p.name],
            "in_study": "yes" if by_run[p.name] in study_front else "",
        }
        for p in frontier
    ]
    columns = [Column("run", "candidate"), *(Column(key) for key in (*SHAPE, "support"))]
    columns += [Column("macs", "MACs", si, "right"), Column("params", format=si, align="right")]
    columns += [Column("p50_ms", "p50 ms", ".2f", "right")]
    columns += [Column("p99_ms", "p99 ms", ".2f", "right")]
    columns += [Column("test", "test %", lambda share: f"{100 * share:.2f}", "right")]
    columns += [Column("val_accuracy", "validation %", lambda share: f"{100 * share:.2f}", "right")]
    columns += [Column("in_study", "found by the study itself"), Column("mark", "")]
    counts = {state: sum(row["state"] == state for row in everything) for state in {row["state"] for row in everything}}
    print(f"trials: {counts}; {max(row['ended_s'] for row in everything if row['ended_s'])} s from first to last\n")
    print(Table(lines, columns).to_markdown(), "\n")
    print(f"the study's own frontier: {', '.join(row['run'] for row in study_front)}")
    ratios = [b / a for a, b in pairs]
    print(
        f"study's times against those side by side: rank correlation {spearman(pairs):.2f}, ratio {min(ratios):.2f} to "
        f"{max(ratios):.2f}, median {statistics.median(ratios):.2f}\n"
    )
    print(against_dense(rows).to_markdown(), "\n")
    print(same_shape(rows).to_markdown())
    for key, label in (("p50_ms", f"measured side by side: p50 of {batch} images (ms)"), ("macs", "multiply-adds")):
        drawn = [
            {"x": row[key], "y": 100 * row["test"], "support": row["support"].replace(" ", " at ")} for row in rows
        ]
        name = "time.png" if key == "p50_ms" else "macs.png"
        pareto_plot(
            drawn, out / name, x="x", y="y", group="support", x_label=label, y_label="test accuracy (%)", log_x=True
        )


def models(arguments: argparse.Namespace) -> None:
    print(*(arguments.study / row["run"] for row in trials(arguments.study) if row["state"] == "finished"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    one = steps.add_parser("models")
    two = steps.add_parser("report")
    for step in (one, two):
        step.add_argument("study", type=Path, help="the study's folder")
    two.add_argument("profile", type=Path, help="profile.json of its finished candidates")
    two.add_argument("--out", type=Path, default=Path("results/search"))
    arguments = parser.parse_args()
    {"models": models, "report": report}[arguments.step](arguments)


if __name__ == "__main__":
    main()
