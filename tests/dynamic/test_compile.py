"""Compiled points: equal to the network, switched by choosing one, and governed by constraints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import precut
from precut import runtime
from precut.deadline import Point as TimedPoint
from precut.deadline import Selector, profile
from precut.dynamic import (
    DynamicNet,
    Governor,
    ladder_table,
    make_dynamic,
    plot_accuracy,
    plot_widths,
    targets,
    widths_table,
)
from precut.errors import PrecutError
from precut.measure import Constraints

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def dyn() -> DynamicNet:
    torch.manual_seed(0)
    made = make_dynamic(precut.create_model("resnet8"), X[:1])
    made.ladder([1, 0.5, 0.25], align=4)
    made.prepare([*made.points, made.point(0.5, resolution=24)])
    made.recalibrate(made.points[1:], X)
    return made.eval()


def test_compiled_points_compute_what_the_network_does(dyn: DynamicNet) -> None:
    fast = precut.compile(dyn, X, threads=1, autotune=False)
    assert fast.points == dyn.points
    for point in dyn.points:
        fast.set_point(point)
        dyn.set_point(point)
        assert fast.active == point
        with torch.no_grad():
            assert torch.allclose(fast(X), dyn(X), atol=1e-4)
            assert torch.allclose(fast(X[:1]), dyn(X[:1]), atol=1e-4)
    assert fast.explain(dyn.points[0]).rows != fast.explain(dyn.points[1]).rows
    with pytest.raises(PrecutError, match=r"^this point was not compiled: Point\(space="):
        fast.set_point(dyn.point(0.75))
    with pytest.raises(PrecutError, match=r"^this point was not compiled: 'p'"):
        fast.explain("p")  # type: ignore[arg-type]
    with pytest.raises(PrecutError, match=r"^compile got no points"):
        dyn.compile([])


def test_bytes_are_told_honestly(dyn: DynamicNet) -> None:
    table = dyn.compile(threads=1, autotune=False).bytes()
    weights = [
        sum(m.weight.numel() * 4 for m in dyn.extract(p).modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)))
        for p in dyn.points
    ]
    for row, least in zip(table.rows, weights, strict=True):
        assert row["canonical"] >= least
        assert row["packed"] >= 0.9 * least
    assert table.rows[0]["own"] == 0
    statistics = 8 * sum(
        m.num_features for m in dyn.extract(dyn.points[1]).modules() if isinstance(m, torch.nn.BatchNorm2d)
    )
    assert statistics < table.rows[1]["own"] < 2 * statistics
    assert table.totals[0]["packed"] == sum(row["packed"] for row in table.rows)


def test_saving_over_a_file(dyn: DynamicNet, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(PrecutError, match=r"^save writes a folder, a file for each point; '.*taken' is a file$"):
        dyn.compile(threads=1, autotune=False).save(tmp_path / "taken")


@pytest.mark.skipif(not runtime.available(), reason="the native library is not installed")
def test_native_files_run_without_torch(dyn: DynamicNet, tmp_path: Path) -> None:
    fast = dyn.compile(threads=1, autotune=False)
    fast.save(tmp_path)
    rows = json.loads((tmp_path / "points.json").read_text())
    for number, (row, point) in enumerate(zip(rows, dyn.points, strict=True)):
        assert row["file"] == f"{number}.precut"
        side = point.resolution or 32
        x = np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)
        with runtime.load(tmp_path / row["file"], threads=1, autotune=False) as model:
            want = dyn.extract(point)(torch.from_numpy(x)).detach().numpy()
            assert np.allclose(model.run(x), want, atol=1e-4)


def test_switching_allocates_nothing(dyn: DynamicNet) -> None:
    import tracemalloc

    fast = dyn.compile(threads=1, autotune=False)
    for net in (dyn, fast):
        one, two = dyn.points[:2]
        net.set_point(one)  # type: ignore[attr-defined]
        net.set_point(two)  # type: ignore[attr-defined]
        tracemalloc.start()
        for _ in range(200):
            net.set_point(one)  # type: ignore[attr-defined]
            net.set_point(two)  # type: ignore[attr-defined]
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert grown < 1000


def test_the_governor_keeps_constraints(dyn: DynamicNet) -> None:
    """Made-up times, so that what is right is known."""
    fast = dyn.compile(threads=1, autotune=False)
    times, accuracies = [0.9, 0.5, 0.3, 0.1], [0.9, 0.8, 0.7, 0.6]
    points = [
        TimedPoint(str(k), a, [t] * 400, memory_bytes=1000 * (4 - k))
        for k, (t, a) in enumerate(zip(times, accuracies, strict=True))
    ]
    governor = Governor(fast, Selector(points, mode="static"))
    cases = [
        (Constraints(deadline_s=1.0), 0),
        (Constraints(deadline_s=0.6), 1),
        (Constraints(throughput=1 / 0.35), 2),
        (Constraints(min_accuracy=0.7), 2),
        (Constraints(deadline_s=0.95, memory_bytes=2500), 2),
        (Constraints(deadline_s=0.05), 3),  # nothing fits: the quickest
    ]
    for constraints, want in cases:
        decision = governor.choose(constraints)
        assert decision.point is not None
        assert decision.point.name == str(want)
        assert fast.active == dyn.points[want]
    answer, decision = governor.run(X[:1], Constraints(deadline_s=5.0))
    assert decision.promised
    dyn.set_point(dyn.points[0])
    assert torch.allclose(answer, dyn(X[:1]), atol=1e-4)
    with pytest.raises(PrecutError, match=r"^choose takes measure\.Constraints\(\.\.\.\); got float"):
        governor.choose(0.5)  # type: ignore[arg-type]
    with pytest.raises(PrecutError, match=r"^the selector knows a point 'a', this network has"):
        Governor(fast, Selector([TimedPoint("a", 0.5, [0.1] * 400)]))


def test_points_are_profiled_by_the_deadlines_room(dyn: DynamicNet) -> None:
    fast = dyn.compile(threads=1, autotune=False)
    found = profile(targets(fast, [0.9, 0.8, 0.7, 0.6]), X[:1], rounds=5, warmup=1, energy=False, progress=False)
    assert [point.name for point in found.points] == ["0", "1", "2", "3"]
    assert [point.accuracy for point in found.points] == [0.9, 0.8, 0.7, 0.6]
    assert all(point.memory_bytes for point in found.points)
    with pytest.raises(PrecutError, match=re.escape("targets needs the accuracies of 4 points; got 1")):
        targets(fast, [0.5])


def test_tables_and_pictures(dyn: DynamicNet, tmp_path: Path) -> None:
    table = ladder_table(dyn, [0.9, 0.8, 0.7, 0.6])
    assert table.rows[0]["share"] == 1.0
    assert table.rows[3]["resolution"] == 24
    assert "90.00" in str(table)
    widths = widths_table(dyn, ops=True)
    for row in widths.rows:
        assert [row[f"p{k}"] for k in range(4)] == [point.width(row["layer"]) for point in dyn.points]
        assert row["op0"]
    assert "layer 'head' is not cut" in widths.notes[0]
    rows = [{"macs": 10 * k, "accuracy": 0.1 * k, "training": "joint", "point": k} for k in range(1, 4)]
    assert plot_accuracy(rows, tmp_path / "a.png").stat().st_size > 1000
    assert plot_widths(dyn, tmp_path / "w.svg").stat().st_size > 1000
    with pytest.raises(PrecutError, match=r"^ladder_table needs 4 accuracies"):
        ladder_table(dyn, [0.5])
    with pytest.raises(PrecutError, match=r"^plot_widths needs a ladder"):
        plot_widths(make_dynamic(precut.create_model("resnet8"), X[:1]), tmp_path / "w.png")
