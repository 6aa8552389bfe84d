"""SynFlow's rounds against the published algorithm written plainly, in turns: a round of the one, a round of the other,
each in the whole of its own pruning; and the peak of memory of both, each in a process of its own.

    python benchmarks/synflow.py --model vgg16 --density 0.01 --threads 2     # writes results/synflow-speed/

The plain algorithm is that of the authors' repository (ganguli-lab/Synaptic-Flow, 9dfa57a): float32, masked layers, the
whole model made absolute and signed again every round, and ``torch.kthvalue`` over all scores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut._files import atomic_write
from precut.measure import environment, paired_ratio
from precut.report import Column, Table, byte_size, duration


class MaskedConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.weight_mask, self.bias)


class MaskedLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.weight_mask, self.bias)


def plain(model: nn.Module, density: float, rounds: int, side: int) -> Iterator[None]:
    """The published algorithm, a round a step; changes the model's layers to masked ones."""
    model.eval()
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        layer.__class__ = MaskedConv2d if isinstance(layer, nn.Conv2d) else MaskedLinear
        layer.register_buffer("weight_mask", torch.ones_like(layer.weight))
    for epoch in range(rounds):
        signs = {}
        with torch.no_grad():
            for name, value in model.state_dict().items():
                signs[name] = torch.sign(value)
                value.abs_()
        model.zero_grad()
        torch.sum(model(torch.ones(1, 3, side, side))).backward()
        scores = [torch.clone(layer.weight.grad * layer.weight).detach().abs_() for layer in layers]
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.mul_(signs[name])
        every = torch.cat([torch.flatten(score) for score in scores])
        k = int((1.0 - density ** ((epoch + 1) / rounds)) * every.numel())
        if k >= 1:
            threshold, _ = torch.kthvalue(every, k)
            zero, one = torch.tensor([0.0]), torch.tensor([1.0])
            for layer, score in zip(layers, scores, strict=True):
                layer.weight_mask.copy_(torch.where(score <= threshold, zero, one))
        yield


def build(arguments: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    return precut.create_model(arguments.model, input_size=arguments.side)


def ours(arguments: argparse.Namespace, on_round: Callable[..., None] | None = None) -> Any:
    x = torch.zeros(1, 3, arguments.side, arguments.side)
    return precut.prune(build(arguments), "synflow", arguments.density, x, rounds=arguments.rounds, on_round=on_round)[
        1
    ]


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each round of both."""
    rival = plain(build(arguments), arguments.density, arguments.rounds, arguments.side)
    times: dict[str, list[float]] = {"plain": [], "precut": []}
    began = time.perf_counter()

    def turn(done: int, rounds: int, left: int) -> None:
        nonlocal began
        times["precut"].append(time.perf_counter() - began)
        start = time.perf_counter()
        next(rival)
        times["plain"].append(time.perf_counter() - start)
        if done % 10 == 0:
            print(f"round {done} of {rounds}", file=sys.stderr, flush=True)
        began = time.perf_counter()

    report = ours(arguments, turn)
    tail = time.perf_counter() - began  # the report and the sparse model, which the plain algorithm lacks
    ratio = paired_ratio(times["plain"], times["precut"])
    return {
        "rounds_seconds": {name: sum(spent) for name, spent in times.items()},
        "median_round_seconds": {name: sorted(spent)[len(spent) // 2] for name, spent in times.items()},
        "after_the_rounds_seconds": tail,
        "total_ratio": sum(times["plain"]) / (sum(times["precut"]) + tail),
        "round_ratio": {"median": ratio.ratio, "low": ratio.low, "high": ratio.high},
        "kept": report.k,
        "size": report.size,
        "empty_layers": len(report.empty),
    }


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak() -> int:
    """The highest ``resident`` so far. (ru_maxrss would count the process that started this one.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def memory(arguments: argparse.Namespace) -> None:
    """In a process of its own: prints the bytes that a pruning adds at its peak to a process with the model in it."""
    model = build(arguments)
    with torch.no_grad():
        model(torch.zeros(1, 3, arguments.side, arguments.side))
    before = resident()
    if arguments.memory == "precut":
        x = torch.zeros(1, 3, arguments.side, arguments.side)
        precut.prune(model, "synflow", arguments.density, x, rounds=arguments.rounds)
    else:
        for _ in plain(model, arguments.density, arguments.rounds, arguments.side):
            pass
    print(json.dumps({"bytes": peak() - before}))


def peaks(arguments: argparse.Namespace) -> dict[str, int]:
    found = {}
    for name in ("precut", "plain"):
        words = [
            *(sys.executable, __file__, "--memory", name, "--model", arguments.model),
            *("--density", str(arguments.density), "--rounds", str(min(arguments.rounds, 5))),
            *("--side", str(arguments.side), "--threads", str(arguments.threads)),
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout)["bytes"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", choices=("precut", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=Path("results/synflow-speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        memory(arguments)
        return
    found = speed(arguments)
    used = peaks(arguments)
    weights = 4 * found["size"]
    rows = [
        {
            "algorithm": name,
            "rounds": found["rounds_seconds"][name],
            "median": found["median_round_seconds"][name],
            "after": found["after_the_rounds_seconds"] if name == "precut" else None,
            "memory": used[name],
            "times": used[name] / weights,
        }
        for name in ("plain", "precut")
    ]
    ratio = found["round_ratio"]
    columns = [
        Column("algorithm"),
        Column("rounds", f"{arguments.rounds} rounds", duration, "right"),
        Column("median", "median round", duration, "right"),
        Column("after", "report, sparse model", duration, "right"),
        Column("memory", "peak above the model", byte_size, "right"),
        Column("times", "in float32 weights", ".2f", "right"),
    ]
    table = Table(
        rows,
        columns,
        title=f"SynFlow on {arguments.model}, {found['size']:,} weights to {found['kept']:,}, {arguments.threads} threads",
        notes=[
            f"measured: {found['total_ratio']:.2f} times faster in all; a round {ratio['median']:.2f} times "
            f"(90 % interval {ratio['low']:.2f} to {ratio['high']:.2f}, {arguments.rounds} rounds in turns)",
            "memory: growth of the process from the built model to its highest",
        ],
    )
    print(table)
    stem = f"{arguments.model}-density{arguments.density}-threads{arguments.threads}"
    data = {**found, "memory": used, "arguments": {k: str(v) for k, v in vars(arguments).items()}}
    atomic_write(
        arguments.results / f"{stem}.json", json.dumps({**data, "environment": environment()}, indent=2) + "\n"
    )
    atomic_write(arguments.results / f"{stem}.md", table.to_markdown())


if __name__ == "__main__":
    main()
