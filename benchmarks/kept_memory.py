"""A training step with `precut.training.kept_memory`, as `fit` takes it, against the same step without, in turns.

    python benchmarks/kept_memory.py --threads 1     # writes results/training-speed/kept-memory-*

Half-width speednet (dense, PSD1_P16, 1 % of the weights at random) and a depth-wise DenseNet, batch 250, float32. Both are
processes of their own, since the heap takes some steps to settle; a turn is one step of each network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
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

BATCH, SIDE, SETTLE = 250, 32, 4


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


def work(name: str, keep: bool, threads: int) -> None:
    """Answers each line on standard input with the seconds of a step."""
    torch.set_num_threads(threads)
    model, form = networks()[name]
    net: nn.Module = model.to(memory_format=form).train()  # type: ignore[call-overload]
    x, y = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=form), torch.randint(0, 10, (BATCH,))
    with kept_memory() if keep else nullcontext():
        for number, _ in enumerate(sys.stdin):
            steps = SETTLE if number == 0 else 1
            for _ in range(steps):
                start = time.perf_counter()
                net.zero_grad(set_to_none=True)
                F.cross_entropy(net(x), y).backward()
                seconds = time.perf_counter() - start
            print(json.dumps(seconds), flush=True)


def measure(name: str, threads: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of a step without and with kept memory, in turns."""
    command = [sys.executable, __file__, "--threads", str(threads), "--work", name]
    pair = [
        subprocess.Popen([*command, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for more in ([], ["--keep"])
    ]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for place in (0, 1) if number % 2 else (1, 0):
            process = pair[place]
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            seconds = json.loads(process.stdout.readline())
            if number:
                times[place].append(seconds)
    for process in pair:
        process.communicate()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results/training-speed"))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.keep, arguments.threads)
        return
    rows = []
    for name in networks():
        without, within = measure(name, arguments.threads, arguments.rounds)
        ratio = paired_ratio(without, within)
        medians = {"without": statistics.median(without), "within": statistics.median(within)}
        rows.append({"network": name, **medians, "ratio": ratio.ratio, "low": ratio.low, "high": ratio.high})
        print(f"{name}: {ratio.ratio:.2f}", file=sys.stderr, flush=True)
    columns = [
        Column("network"),
        Column("without", "median step", duration, "right"),
        Column("within", "with kept memory", duration, "right"),
        Column("ratio", "times as fast", ".2f", "right"),
        Column("low", "low", ".2f", "right"),
        Column("high", "high", ".2f", "right"),
    ]
    where = environment()["cpu"]
    note = f"measured: batch {BATCH}, threads {arguments.threads}, {arguments.rounds} rounds in turns, {where}"
    table = Table(rows, columns, notes=[note])
    print(table)
    atomic_write(arguments.results / f"kept-memory-threads{arguments.threads}.md", table.to_markdown())


if __name__ == "__main__":
    main()
