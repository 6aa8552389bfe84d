"""Profiling: what is timed, in which order, what is kept; recording under load; stressors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from precut import PrecutError
from precut.deadline import Frontier, Point, Profile, Stressors, Target, Trace, load_targets, profile, record, served

X = torch.zeros(1, 2)


def busy(seconds: float):
    def run(x: torch.Tensor) -> torch.Tensor:
        end = time.perf_counter() + seconds * len(x)
        while time.perf_counter() < end:
            pass
        return x

    return run


def test_times_are_those_of_the_calls():
    targets = [Target("quick", busy(0.5e-3), 0.5), Target("slow", busy(2e-3), 0.7)]
    found = profile(targets, X, batches=(1, 3), rounds=30, warmup=2, progress=False, energy=False)
    for point, seconds in zip(found.points, (0.5e-3, 2e-3), strict=True):
        for batch in (1, 3):
            assert len(point.samples[batch]) == 30
            assert min(point.samples[batch]) >= batch * seconds
            # a busy machine can only add to the fastest call by luck thirty times in a row
            assert min(point.samples[batch]) < 1.5 * batch * seconds + 1e-4
    assert found.no_energy == ("not asked for",)
    assert {"cpu", "cores", "threads", "versions"} <= set(found.environment)


def test_points_take_turns():
    """Every round runs every point at every batch size once, in changing orders; the same seed gives the same orders."""
    log: list[tuple[str, int]] = []

    def logged(name: str):
        return Target(name, lambda x: log.append((name, len(x))), 0.5)

    orders = []
    for seed in (0, 0, 1):
        log.clear()
        profile(
            [logged("a"), logged("b")], X, batches=(2, 1), rounds=6, warmup=1, seed=seed, progress=False, energy=False
        )
        rounds = [tuple(log[i : i + 4]) for i in range(0, len(log), 4)]
        assert len(rounds) == 7
        assert all(sorted(one) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)] for one in rounds)
        assert len(set(rounds)) > 2
        orders.append(rounds)
    assert orders[0] == orders[1] != orders[2]


def test_modules_are_served_from_and_to_the_cpu():
    model = torch.nn.Linear(2, 2).train()
    out = served(model)(X)
    assert not model.training
    assert out.device.type == "cpu"
    assert not out.requires_grad


def test_files_and_other_machines(tmp_path, monkeypatch):
    found = profile([Target("a", busy(1e-5), 0.5, 100, [True, False])], X, rounds=20, progress=False, energy=False)
    path = found.save(tmp_path / "profile.json")
    back = Profile.load(path, {"a": len})
    assert back.points[0].run is len
    assert back.points[0].correct == b"\x01\x00"
    assert back.points[0].samples[1] == pytest.approx(found.points[0].samples[1], abs=1e-9)
    data = json.loads(path.read_text())
    data["environment"]["cpu"] = "Another CPU 9000"
    path.write_text(json.dumps(data))
    with pytest.raises(PrecutError, match=r"another machine \(cpu \"Another CPU 9000\", here .*other_machine=True"):
        Profile.load(path)
    assert Profile.load(path, other_machine=True).environment["cpu"] == "Another CPU 9000"
    with pytest.raises(PrecutError, match="there is no profile"):
        Profile.load(tmp_path / "none.json")
    path.write_text("{}")
    with pytest.raises(PrecutError, match="is not a profile"):
        Profile.load(path)


def test_the_table_shows_what_the_samples_can_tell():
    found = profile([Target("a", busy(1e-5), 0.5)], X, rounds=150, warmup=0, progress=False, energy=False)
    (row,) = found.table().rows
    assert row["p99"] is not None
    assert row["p99_ucb"] is None
    assert "energy not measured" in str(found)
    with pytest.raises(
        PrecutError, match=r"point 'a', batch 1: an upper bound of p99 .* needs at least 299 samples; got 150"
    ):
        found.frontier()
    assert len(found.frontier("p90")) == 1


def test_energy_is_measured_where_there_are_counters(monkeypatch):
    from precut.deadline import _profile
    from precut.measure import EnergyCounter

    calls = []
    counter = EnergyCounter("fake", lambda: 3.0 * len(calls))  # three joules a call
    monkeypatch.setattr(_profile, "energy_counters", lambda: ([counter], ()))
    monkeypatch.setattr(_profile, "_ENERGY_S", 0.02)
    found = profile([Target("a", calls.append, 0.5)], X, batches=(1, 2), rounds=5, warmup=0, progress=False)
    assert found.points[0].energy(1) == found.points[0].energy(2) == 3.0
    assert found.points[0].energy(3) is None
    assert found.no_energy == ()


def test_recording_runs_every_point_for_every_request():
    points = [Point(name, 0.5, [1e-3] * 300, busy(seconds)) for name, seconds in (("a", 1e-4), ("b", 3e-4))]
    trace = record(points, X, 40, gap_s=2e-3, deadlines_s=(1e-3, 2e-3), progress=False)
    assert (trace.points, trace.latency.shape) == (("a", "b"), (40, 2))
    assert (trace.latency[:, 0] >= 1e-4).all()
    assert (trace.latency[:, 1] >= 3e-4).all()
    assert (np.diff(trace.arrival) >= 2e-3 - 1e-4).all()
    after = trace.deadline - trace.arrival
    assert ((after >= 1e-3) & (after <= 2e-3)).all()
    assert (trace.meta["load"], trace.meta["made"]) == ("idle", "recorded")
    default = record(points, X, 120, progress=False)
    low, high = default.meta["deadlines_s"]
    p99 = np.quantile(default.latency, 0.99, axis=0, method="inverted_cdf")
    assert (low, high) == pytest.approx((1.2 * p99.min(), 1.5 * p99.max()))


def test_bursts_come_and_go(tmp_path):
    points = [Point("a", 0.5, [1e-3] * 300, busy(1e-4))]
    trace = record(
        points, X, 60, load="bursts", gap_s=5e-3, deadlines_s=(1.0, 1.0), phase_s=(0.03, 0.03), progress=False
    )
    phases = trace.meta["phases"]
    assert len(phases) >= 3
    assert all(a[1] != b[1] for a, b in pairwise(phases[1:]))
    assert Trace.read(trace.write(tmp_path / "t.parquet")).meta["phases"] == phases


def cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux's /proc")
def test_stressors_work_only_while_switched_on_and_end():
    with Stressors(1) as stress:
        (pid,) = (process.pid for process in stress._processes)
        time.sleep(0.2)  # the interpreter starts
        rest = cpu_seconds([pid])
        time.sleep(0.2)
        assert cpu_seconds([pid]) - rest <= 0.03
        stress.switch(True)
        time.sleep(0.5)
        worked = cpu_seconds([pid]) - rest
        assert worked > 0.05
        stress.switch(False)
        time.sleep(0.1)
        rest = cpu_seconds([pid])
        time.sleep(0.2)
        assert cpu_seconds([pid]) - rest <= 0.03
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux's /proc")
def test_stressors_do_not_outlive_a_killed_parent():
    code = (
        "import time\nfrom precut.deadline import Stressors\n"
        "with Stressors(1) as s:\n    s.switch(True)\n    print(s._processes[0].pid, flush=True)\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the stressor still runs")


def test_wrong_uses():
    with pytest.raises(PrecutError, match="there is nothing to profile"):
        profile([], X)
    twice = [Target("a", busy(0), 0.5)] * 2
    with pytest.raises(PrecutError, match="two targets are named 'a'"):
        profile(twice, X)
    with pytest.raises(PrecutError, match="rounds must be a whole number of at least 1; got 0"):
        profile(twice[:1], X, rounds=0)
    points = [Point("a", 0.5, [1e-3] * 300)]
    with pytest.raises(PrecutError, match=r"unknown load 'stres': did you mean 'stress'\?"):
        record(points, X, 5, load="stres")
    with pytest.raises(PrecutError, match="point 'a' cannot be run"):
        record(points, X, 5)
    with pytest.raises(PrecutError, match="there is no model to profile"):
        load_targets([])
    with pytest.raises(PrecutError, match="unknown split 'train'"):
        load_targets(["x"], split="train")
    assert Frontier(points).memory_bytes is None


def test_a_file_of_ours_that_lacks_something(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps({"format": "precut-profile-1"}))
    with pytest.raises(PrecutError, match=r"cut\.json' is damaged or was written by hand: KeyError 'points'"):
        Profile.load(path, other_machine=True)
