"""A training step (forward, loss, backward, SGD) of sparse networks against the dense network, all in turns; the sparse ones
on the native convolution and on the dense convolution of the scattered weights, and a narrower dense network beside.

    python benchmarks/training.py --model resnet18 --batch 128 --threads 1     # writes results/training-speed/

Rivals are torch's dense convolutions (oneDNN) in float32 in the faster of both memory formats for each network.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import precut
from precut import ops
from precut._files import atomic_write
from precut.measure import environment, paired_ratio
from precut.report import Column, Table, count, duration, si


class Step:
    """One step of training a network, in one memory format, on the native convolution or without it."""

    def __init__(self, name: str, model: nn.Module, arguments: argparse.Namespace, last: bool, native: bool) -> None:
        self.name, self.native = name, native
        self.format = torch.channels_last if last else torch.contiguous_format
        self.model: Any = model.to(memory_format=self.format).train()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(arguments.batch, 3, arguments.side, arguments.side, generator=generator)
        self.x, self.y = x.to(memory_format=self.format), torch.randint(0, 10, (arguments.batch,), generator=generator)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self) -> float:
        start = time.perf_counter()
        with nullcontext() if self.native else ops.reference_only():
            self.optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()
        return time.perf_counter() - start


def faster_format(name: str, make: Any, arguments: argparse.Namespace, native: bool) -> Step:
    """The step in the memory format in which the quickest of six steps is quicker."""
    both = [Step(name, make(), arguments, last, native) for last in (True, False)]
    for step in both:
        step()
    times = [min(turn) for turn in zip(*[[step() for step in both] for _ in range(6)], strict=True)]
    return both[times.index(min(times))]


def steps(arguments: argparse.Namespace) -> tuple[list[Step], dict[str, Any]]:
    """All contestants and what each counts."""
    example = torch.zeros(1, 3, arguments.side, arguments.side)
    options = json.loads(arguments.model_set)

    def dense(width: float = 1.0) -> nn.Module:
        torch.manual_seed(0)
        return precut.create_model(arguments.model, width_mult=width, input_size=arguments.side, **options)

    found, counts = [faster_format("dense", dense, arguments, False)], {"dense": precut.summary(dense(), example)}
    for name in arguments.supports:
        if name.startswith("width:"):
            width = float(name.removeprefix("width:"))
            found.append(faster_format(name, lambda width=width: dense(width), arguments, False))
            counts[name] = precut.summary(dense(width), example)
            continue
        if name.startswith("mask:"):
            density = float(name.removeprefix("mask:"))

            def make(density: float = density) -> nn.Module:
                model = dense()
                stem = [layer for layer, _ in model.named_children() if layer in ("conv1", "stem")]
                return precut.prune(model, "random", density, example, ignored_layers=stem, seed=0)[0]
        else:

            def make(name: str = name) -> nn.Module:
                return precut.sparsify(dense(), name)

        found.append(faster_format(name, make, arguments, True))
        found.append(faster_format(f"{name} scattered", make, arguments, False))
        counts[name] = counts[f"{name} scattered"] = precut.summary(make(), example)
    return found, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--model-set", default="{}", help="the model's own arguments, JSON")
    parser.add_argument("--supports", nargs="+", default=["PS4_P4", "PS2_P6", "PSD1_P16", "PS1_P9", "width:0.42"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results/training-speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    contestants, counts = steps(arguments)
    times: dict[str, list[float]] = {step.name: [] for step in contestants}
    for number in range(arguments.rounds):
        for step in random.Random(number).sample(contestants, len(contestants)):
            times[step.name].append(step())
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    rows = []
    for step in contestants:
        ratio = paired_ratio(times["dense"], times[step.name])
        rows.append(
            {
                "network": step.name,
                "format": "channels last" if step.format == torch.channels_last else "contiguous",
                "params": counts[step.name].params,
                "macs": counts[step.name].macs,
                "counted": counts["dense"].macs / counts[step.name].macs,
                "step": sorted(times[step.name])[arguments.rounds // 2],
                "ratio": ratio.ratio,
                "low": ratio.low,
                "high": ratio.high,
            }
        )
    columns = [
        Column("network"),
        Column("format"),
        Column("params", "params", count, "right"),
        Column("macs", "MACs forward", si, "right"),
        Column("counted", "counted", ".2f", "right"),
        Column("step", "median step", duration, "right"),
        Column("ratio", "measured", ".2f", "right"),
        Column("low", "low", ".2f", "right"),
        Column("high", "high", ".2f", "right"),
    ]
    table = Table(
        rows,
        columns,
        title=f"A training step of {arguments.model}, {arguments.side} px, batch {arguments.batch}, float32, "
        f"{arguments.threads} thread{'s' * (arguments.threads > 1)}",
        notes=[
            "counted: multiply-adds of the dense network over these; measured: its median step over this, with a 90 % "
            f"interval, {arguments.rounds} rounds in turns",
            "scattered: the same network without the native convolution",
        ],
    )
    print(table)
    stem = f"{arguments.model}-{arguments.side}px-batch{arguments.batch}-threads{arguments.threads}"
    atomic_write(arguments.results / f"{stem}.md", table.to_markdown())
    record = {"arguments": vars(arguments) | {"results": str(arguments.results)}, "environment": environment()}
    atomic_write(
        arguments.results / f"{stem}.json", json.dumps(record | {"rows": rows, "times": times}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
