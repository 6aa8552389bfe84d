"""What a claim's networks take in precut's engine, in turns, beside the accuracy that they reached.

    python benchmarks/claims.py budget-frontier --only 'low-*' --baseline low-dense --data-root DATA --batch 1 --threads 1
    python benchmarks/claims.py moving-supports budget-frontier --only '*' 'low-*' --baseline low-dense --data-root DATA

writes results/CLAIM/latency-BASELINE-*.md and .json, of the first claim. Speed does not depend on the weights: the networks are
built as the claim says and not trained. Supports that moved during training are those of the run's folder in ``--runs``.
"""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path

import torch
from torch import nn

import precut
from precut._files import atomic_write
from precut.data import Dataset
from precut.experiments import Claim, Run, build, load_claim, read_rows
from precut.measure import compare_latency
from precut.report import Column, Table, duration, si


def network(claim: Claim, run: Run, dataset: Dataset, runs: Path) -> nn.Module:
    """Untrained, or trained where the training decides what exists."""
    if run.move is None:
        return build(run, dataset, claim.input_size)
    return precut.load(runs / claim.name / run.key / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="+", metavar="CLAIM")
    parser.add_argument(
        "--only", nargs="+", default=["*"], help="runs whose name is like this; one for all claims, or for each"
    )
    parser.add_argument("--baseline", required=True, help="the run that ratios are against")
    parser.add_argument("--data-root")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs' folders are")
    arguments = parser.parse_args()
    claims = [load_claim(name) for name in arguments.claims]
    if len(arguments.only) not in (1, len(claims)):
        parser.error(
            f"--only got {len(arguments.only)} patterns for {len(claims)} claims; expected one, or one for each"
        )
    patterns = arguments.only * len(claims) if len(arguments.only) == 1 else arguments.only
    networks, macs, accuracies = {}, {}, {}
    for claim, pattern in zip(claims, patterns, strict=True):
        dataset = precut.data.load(claim.data, root=arguments.data_root)
        x = torch.zeros(arguments.batch, *dataset.image_shape)
        rows = read_rows(arguments.results / claim.name / "rows.csv")
        chosen = {run.name: run for run in reversed(claim.runs) if fnmatch.fnmatchcase(run.name, pattern)}
        for name, run in reversed(chosen.items()):
            if name in networks:
                raise precut.PrecutError(f"two of the claims have a run {name!r}; narrow --only")
            accuracies[name] = [100 * float(row["test_accuracy"]) for row in rows if row["run"] == name]
            if run.move is not None and not accuracies[name]:
                print(f"{name} is left out: where its supports move to is not known before it is trained")
                continue
            model = network(claim, run, dataset, arguments.runs).eval()
            macs[name] = precut.summary(model, x[:1]).macs
            networks[name] = precut.compile(model, x, threads=arguments.threads)
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
        title=f"{' and '.join(claim.name for claim in claims)} in precut's engine",
        notes=[found.table().notes[0]],
    )
    print(table)
    stem = (
        arguments.results
        / claims[0].name
        / f"latency-{arguments.baseline}-batch{arguments.batch}-threads{arguments.threads}"
    )
    atomic_write(stem.with_suffix(".md"), table.to_markdown())
    atomic_write(stem.with_suffix(".json"), found.to_json() + "\n")


if __name__ == "__main__":
    main()
