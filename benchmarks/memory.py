"""What a loaded model takes: private memory from before `load` to after 100 forwards, beside its kept weights and arena.

    python benchmarks/memory.py --out results/engines

ResNet-18 at 32 pixels, batch 1, one thread, `precut.runtime` (no torch) in a process of its own for each network. Linux only:
/proc/self/smaps_rollup. Kept weights are the float32 parameters that exist; the target is 1.3 times weights and arena.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import precut
from precut._files import atomic_write
from precut.bench import network
from precut.report import Column, Table

NETWORKS = ("dense", "PS4_P4", "PS2_P4", "PSD1_P16", "PS1_P8", "mask:0.111", "mask:0.05", "mask:0.01")
CHILD = """
import gc, json, sys
import numpy as np
from precut import runtime

def private():
    with open("/proc/self/smaps_rollup") as lines:
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private"))

x = np.ones((1, 3, 32, 32), np.float32)
runtime.version()
gc.collect()
before = private()
with runtime.load(sys.argv[1], threads=1, autotune=sys.argv[2] == "tuned") as model:
    for _ in range(100):
        model.run(x)
    gc.collect()
    print(json.dumps({"growth": private() - before, "arena": model.describe(x.shape)["arena_bytes"]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autotune", action="store_true", help="choose kernels by timing instead of by the cost model")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.zeros(1, 3, 32, 32)
    rows = []
    for name in NETWORKS:
        _, net = network(name, lambda width: precut.create_model("resnet18", width_mult=width), x, 1, print)
        kept = 4 * sum(parameter.numel() for parameter in net.parameters())
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.precut"
            precut.compile(net, x, threads=1, autotune=False).save(file)
            command = [sys.executable, "-c", CHILD, str(file), "tuned" if arguments.autotune else "modelled"]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        sizes = {"weights": kept / 1e6, "arena": told["arena"] / 1e6, "growth": told["growth"] / 1e6}
        rows.append({"network": name, **sizes, "ratio": told["growth"] / (kept + told["arena"])})
    columns = [
        Column("network"),
        Column("weights", "kept weights, MB", ".2f", "right"),
        Column("arena", "arena, MB", ".2f", "right"),
        Column("growth", "private growth, MB", ".2f", "right"),
        Column("ratio", "growth / (weights + arena)", ".2f", "right"),
    ]
    chosen = "timing" if arguments.autotune else "the cost model"
    note = f"measured on {precut.measure.environment()['cpu']}; kernels chosen by {chosen}; 1 MB is 10^6 bytes"
    table = Table(rows, columns, notes=[note])
    print(table)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        atomic_write(arguments.out / "memory.csv", table.to_csv())
        atomic_write(arguments.out / "memory.md", table.to_markdown())


if __name__ == "__main__":
    main()
