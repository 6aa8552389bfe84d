"""Memory: what a model takes is its kept weights and the planned arena, and running takes nothing more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from precut.runtime import BlobBuilder, ClassSupport, MaskSupport

SCRIPT = """
import gc, json, sys
from pathlib import Path
import numpy as np
from precut import runtime

def private():
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private"))

path, forwards, more = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
runtime.version()
x = np.ones((2, 16, 16, 16), np.float32)
gc.collect()
before = private()
with runtime.load(path, threads=1, autotune=False) as model:
    for _ in range(forwards):
        model.run(x)
    gc.collect()
    first = private()
    arena = model.describe(x.shape)["arena_bytes"]
    for _ in range(more):
        model.run(x)
    gc.collect()
    print(json.dumps({"growth": first - before, "more": private() - first, "arena": arena}))
"""


def measure(path: Path, forwards: int, more: int) -> dict[str, int]:
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    command = [sys.executable, "-c", SCRIPT, str(path), str(forwards), str(more)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    return dict(json.loads(done.stdout))


def write(path: Path, channels: int, layers: int, masked: bool = False) -> int:
    """A chain of sparse and dense (or unstructured) layers; returns the bytes of its weights."""
    rng = np.random.default_rng(0)
    table = ClassSupport([[[(a + b) % 4, 4, 5 + (a + b) % 4] for b in range(8)] for a in range(8)])
    b = BlobBuilder()
    x = b.conv2d(b.input("x", (1, 16, 16, 16)), rng.standard_normal((channels, 16, 1, 1)))
    kept = 16 * channels
    for i in range(layers):
        size = channels * channels * (3 if i % 2 else 9)
        support: ClassSupport | MaskSupport | None = table if i % 2 else None
        if masked:
            mask = rng.random((channels, channels, 3, 3)) < 0.1
            size, support = int(mask.sum()), MaskSupport(mask)
        weight = rng.standard_normal(size).astype(np.float32) / channels
        x = b.conv2d(x, weight, shape=(channels, channels, 3, 3), padding=(1, 1), support=support, act="relu")
        kept += size
    b.output(b.adaptive_avg_pool(x))
    path.write_bytes(b.bytes())
    return kept * 4


pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")


def test_growth_is_the_weights_and_the_arena(tmp_path: Path) -> None:
    path = tmp_path / "m.precut"
    weights = write(path, 192, 4)
    got = measure(path, 20, 100)
    assert got["growth"] <= 1.3 * (weights + got["arena"])
    # Python itself may move a page or two.
    assert got["more"] <= 128 << 10


@pytest.mark.slow
def test_an_unstructured_weight_takes_six_bytes(tmp_path: Path) -> None:
    """Its number and where it belongs: half as much again as the weight alone, and the arena."""
    path = tmp_path / "m.precut"
    weights = write(path, 384, 8, masked=True)
    got = measure(path, 20, 100)
    # Beyond them only what the other networks' 1.3 allows for as well.
    assert got["growth"] <= 1.1 * (1.5 * weights + got["arena"]) + (1 << 20)
    assert got["more"] <= 128 << 10


@pytest.mark.slow
def test_a_hundred_thousand_forwards_grow_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.precut"
    write(path, 16, 1)
    assert measure(path, 1000, 100_000)["more"] <= 128 << 10
