"""A training step with `precut.training.kept_memory`, as `fit` takes it, against the same step without, in turns.

    python benchmarks/kept_memory.py --threads 1     # writes results/training-speed/kept-memory-*

Half-width speednet (dense, PSD1_P16, 1 % of the weights at random) and a depth-wise DenseNet, batch 250, float32. A turn is a
step to settle and two timed ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import precut
from precut._files import atomic_write
from precut.measure import environment, paired_ratio
from precut.report import Column, Table, duration
from precut.training import kept_memory

BATCH, SIDE = 250, 32


def networks() -> dict[str, tuple[nn.Module, torch.memory_format]]:
    """By name, each in its faster memory format."""
    torch.manual_seed(0)
    example = torch.zeros(1, 3, SIDE, SIDE)
    dense = precut.create_model("speednet", widths=[32, 128, 128])
    deep = precut.create_model("random_densenet", depth=4, widths=[8, 16, 32], links=[11, 22, 46], depthwise=True)
    return {
        "speednet dense": (dense, torch.channels_last),
        "speednet PSD1_P16": (precut.sparsify(dense, "PSD1_P16"), torch.channels_last),
        "speednet mask:0.01": (precut.prune(dense, "random", 0.01, example)[0], torch.channels_last),
        "depth-wise DenseNet": (deep, torch.contiguous_format),
    }


def turn(model: nn.Module, x: torch.Tensor, y: torch.Tensor, keep: bool) -> float:
    """Seconds of a step."""
    times = []
    with kept_memory() if keep else nullcontext():
        for _ in range(3):
            start = time.perf_counter()
            for parameter in model.parameters():
                parameter.grad = None
            F.cross_entropy(model(x), y).backward()
            times.append(time.perf_counter() - start)
    return statistics.mean(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results/training-speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x, y = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(0, 10, (BATCH,))
    found = networks()
    times: dict[tuple[str, bool], list[float]] = {(name, keep): [] for name in found for keep in (False, True)}
    for number in range(arguments.rounds):
        for name, keep in random.Random(number).sample(list(times), len(times)):
            model, form = found[name]
            times[name, keep].append(
                turn(model.to(memory_format=form).train(), x.contiguous(memory_format=form), y, keep)  # type: ignore[call-overload]
            )
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    rows = []
    for name in found:
        ratio = paired_ratio(times[name, False], times[name, True])
        without, within = (statistics.median(times[name, keep]) for keep in (False, True))
        rows.append({"network": name, "without": without, "within": within, "ratio": ratio.ratio, "low": ratio.low})
    columns = [
        Column("network"),
        Column("without", "median step", duration, "right"),
        Column("within", "with kept memory", duration, "right"),
        Column("ratio", "times as fast", ".2f", "right"),
        Column("low", "low", ".2f", "right"),
    ]
    where = environment()["cpu"]
    note = f"measured: batch {BATCH}, threads {arguments.threads}, {arguments.rounds} rounds in random turns, {where}"
    table = Table(rows, columns, notes=[note])
    print(table)
    atomic_write(arguments.results / f"kept-memory-threads{arguments.threads}.md", table.to_markdown())


if __name__ == "__main__":
    main()
