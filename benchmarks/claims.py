"""What a claim's networks take in precut's engine, in turns, beside the accuracy that they reached.

    python benchmarks/claims.py budget-frontier --only 'low-*' --baseline low-dense --data-root DATA --batch 1 --threads 1

writes results/CLAIM/latency-BASELINE-*.md and .json. Speed does not depend on the weights: the networks are built as the claim
says and not trained.
"""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path

import torch

import precut
from precut._files import atomic_write
from precut.experiments import build, load_claim, read_rows
from precut.measure import compare_latency
from precut.report import Column, Table, duration, si


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim")
    parser.add_argument("--only", default="*", help="runs whose name is like this")
    parser.add_argument("--baseline", required=True, help="the run that ratios are against")
    parser.add_argument("--data-root")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    claim = load_claim(arguments.claim)
    dataset = precut.data.load(claim.data, root=arguments.data_root)
    rows = read_rows(arguments.results / claim.name / "rows.csv")
    x = torch.zeros(arguments.batch, *dataset.image_shape)
    chosen = {run.name: run for run in reversed(claim.runs) if fnmatch.fnmatchcase(run.name, arguments.only)}
    networks, macs, accuracies = {}, {}, {}
    for name, run in reversed(chosen.items()):
        model = build(run, dataset, claim.input_size).eval()
        macs[name] = precut.summary(model, x[:1]).macs
        networks[name] = precut.compile(model, x, threads=arguments.threads)
        accuracies[name] = [100 * float(row["test_accuracy"]) for row in rows if row["run"] == name]
    found = compare_latency(
        networks, x, threads=arguments.threads, rounds=arguments.rounds, baseline=arguments.baseline
    )
    table = Table(
        [
            {
                "run": name,
                "macs": macs[name],
                "median": sorted(seconds)[len(seconds) // 2],
                "ratio": found.ratios[name].ratio if name in found.ratios else 1.0,
                "low": found.ratios[name].low if name in found.ratios else None,
                "high": found.ratios[name].high if name in found.ratios else None,
                "accuracy": sum(accuracies[name]) / len(accuracies[name]) if accuracies[name] else None,
                "seeds": len(accuracies[name]),
            }
            for name, seconds in found.seconds.items()
        ],
        [
            Column("run"),
            Column("macs", "MACs", si, "right"),
            Column("median", "median", duration, "right"),
            Column("ratio", f"{arguments.baseline} over it", ".3f", "right"),
            Column("low", "90 % low", ".3f", "right"),
            Column("high", "90 % high", ".3f", "right"),
            Column("accuracy", "test %", ".2f", "right"),
            Column("seeds", align="right"),
        ],
        title=f"{claim.name} in precut's engine",
        notes=[found.table().notes[0]],
    )
    print(table)
    stem = (
        arguments.results
        / claim.name
        / f"latency-{arguments.baseline}-batch{arguments.batch}-threads{arguments.threads}"
    )
    atomic_write(stem.with_suffix(".md"), table.to_markdown())
    atomic_write(stem.with_suffix(".json"), found.to_json() + "\n")


if __name__ == "__main__":
    main()
