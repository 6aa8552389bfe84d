"""Work through the training runs of a claim and show its results so far. Finished runs are kept in
RESULTS/CLAIM/rows.csv; interrupted ones go on from runs/CLAIM/. A second call does what is left."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from precut.cli._parser import whole
from precut.cli._show import say, show

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("claim", metavar="CLAIM", help="see precut list claims; or a YAML file")
    parser.add_argument("--only", metavar="GLOB", help="only the runs whose NAME-sSEED is like this: 'low-*-s0'")
    parser.add_argument("--show", action="store_true", help="train nothing, show what there is")
    parser.add_argument("--results", metavar="FOLDER", default="results", help="default results")
    parser.add_argument("--runs-dir", metavar="FOLDER", default="runs", help="default runs")
    parser.add_argument(
        "--data-root", metavar="FOLDER", help="where datasets lie (default: the environment variable PRECUT_DATA)"
    )
    parser.add_argument("--threads", metavar="N", type=whole(), help="of torch (default: torch's choice)")


def run(arguments: argparse.Namespace) -> None:
    """Does the runs and prints mean and spread over seeds."""
    from precut.experiments import load_claim, read_rows, run_claim
    from precut.training import TrainingInterrupted

    claim = load_claim(arguments.claim)
    file = Path(arguments.results) / claim.name / "rows.csv"
    say(" ".join(claim.question.split()))
    if arguments.show:
        rows: Sequence[Mapping[str, Any]] = read_rows(file)
    else:
        done = {(row["run"], int(row["seed"])) for row in read_rows(file)}
        finished = sum((one.name, one.seed) in done for one in claim.runs)
        say(f"{finished} of {len(claim.runs)} runs are finished; rows go to {file}")
        try:
            rows = run_claim(
                claim,
                file,
                Path(arguments.runs_dir),
                only=arguments.only,
                data_root=arguments.data_root,
                threads=arguments.threads,
                on_row=lambda row: say(f"{row['run']} seed {row['seed']}: test accuracy {row['test_accuracy']}"),
            )
        except TrainingInterrupted as stop:
            raise TrainingInterrupted(f"{stop}; the same command goes on", stop.signal) from None
    results = grouped(rows)
    show(_table(results, f"{claim.name}: {len(rows)} of {len(claim.runs)} runs"), results, arguments.json)


def grouped(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each run, over its seeds, by group; accuracies in per cent, best first within a group.

    ``sd`` is the sample standard deviation, None for one seed.
    """
    from precut.experiments import spread

    by_run: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(row["run"], []).append(row)
    found = []
    for name, members in by_run.items():
        accuracies = [100 * float(row["test_accuracy"]) for row in members]
        first = members[0]
        found.append(
            {
                "group": first["group"],
                "run": name,
                "support": first["support"],
                "params": int(first["params"]),
                "macs": int(first["macs"]),
                "test_mean": sum(accuracies) / len(accuracies),
                "test_sd": spread(accuracies),
                "seeds": len(members),
                "seconds": sum(float(row["seconds"]) for row in members) / len(members),
            }
        )
    groups = list(dict.fromkeys(row["group"] for row in found))
    return sorted(found, key=lambda row: (groups.index(row["group"]), -row["test_mean"]))


def _table(results: list[dict[str, Any]], title: str) -> str:
    from precut.report import Column, Table, count, duration, si

    columns = [
        Column("group"),
        Column("run"),
        Column("support"),
        Column("params", format=count, align="right"),
        Column("macs", "MACs", si, "right"),
        Column("test_mean", "test %", ".2f", "right"),
        Column("test_sd", "± sd", ".2f", "right"),
        Column("seeds", align="right"),
        Column("seconds", "a run", duration, "right"),
    ]
    notes = ["counted: params, MACs of one image; measured: test % (mean over seeds), time of a run's training"]
    return str(Table(results, columns, title=title, notes=notes))
