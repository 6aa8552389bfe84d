"""Share of the measured float32 peak that each convolution reaches, on the multiply-adds that its support counts.

    python benchmarks/peak.py --batch 1 --threads 1 --out results/engines

Chains of six equal convolutions with ReLU between, as in `precut bench --layer`; the first, which reads the caller's array,
is left out, and the median of the others is shown. All chains are timed in several passes, since processors change their
pace for seconds: a layer's time is the least, the peak is the most that a loop of nothing but multiply-adds reached in any
pass. A layer of more than 100 % took Winograd, which multiplies less than is counted.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

import precut
from precut._files import atomic_write
from precut.bench import layer_chain, network
from precut.report import Column, Table

LAYERS = ("64@32", "128@16", "256@8", "512@4")
SUPPORTS = ("dense", "PS4_P4", "PS4_P8", "PSD4_P8", "PS3_P8", "PS2_P4", "PS2_P8", "PS1_P8", "PSD1_P16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20, help="forwards of a chain in a pass")
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    compiled = {}
    for layer in LAYERS:
        channels, side = map(int, layer.split("@"))
        x = torch.randn(arguments.batch, channels, side, side, generator=torch.Generator().manual_seed(0))
        for support in SUPPORTS:
            _, chain = network(support, lambda width, layer=layer: layer_chain(layer), x, arguments.threads, print)
            compiled[layer, support] = precut.compile(chain, x, threads=arguments.threads)
    peak = 0.0  # multiply-adds a microsecond
    least: dict[tuple[str, str], list[float]] = {}
    told = {}
    for number in range(arguments.passes):
        for name, run in compiled.items():
            told[name] = [row for row in run.explain(rounds=arguments.rounds).rows if row["op"] == "conv2d"][1:]
            peak = max(peak, *(row["macs"] / row["us"] / row["peak"] for row in told[name]))
            times = [row["us"] for row in told[name]]
            least[name] = [min(pair) for pair in zip(least.get(name, times), times, strict=True)]
        print(f"pass {number + 1} of {arguments.passes}: peak {2 * peak / 1e3:.1f} Gflop/s")
    rows = []
    for (layer, support), times in least.items():
        us, found = statistics.median(times), told[layer, support]
        kernels = "/".join(sorted({row["kernel"] for row in found}))
        rows.append(
            {"layer": layer, "support": support, "us": us, "peak": found[0]["macs"] / us / peak, "kernel": kernels}
        )
    columns = [
        Column("layer"),
        Column("support"),
        Column("us", "us a layer", ".1f", "right"),
        Column("peak", "of peak", ".0%", "right"),
        Column("kernel"),
    ]
    where = precut.measure.environment()
    note = (
        f"measured: median of five layers, each the least of {arguments.passes} x {arguments.rounds} forwards; peak "
        f"{2 * peak / 1e3:.0f} Gflop/s; batch {arguments.batch}, threads {arguments.threads}, {where['cpu']}; multiply-adds "
        "are counted"
    )
    table = Table(rows, columns, notes=[note])
    print(table)
    if arguments.out:
        name = f"peak-batch{arguments.batch}-threads{arguments.threads}"
        atomic_write(arguments.out / f"{name}.md", table.to_markdown())
        atomic_write(arguments.out / f"{name}.csv", table.to_csv())


if __name__ == "__main__":
    main()
