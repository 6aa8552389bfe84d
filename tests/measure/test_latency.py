"""The clock: what is called how often under which settings, statistics on known times, ratios on known pairs."""

import gc
import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from precut.errors import PrecutError
from precut.measure import LatencyReport, compare_latency, latency, paired_ratio

X = torch.zeros(4, 2)
WHERE = {"device": "cpu", "cpu": "Made Up 3000", "versions": {"torch": "9.9"}}


def report(seconds: list[float]) -> LatencyReport:
    return LatencyReport(tuple(seconds), batch=8, warmup=3, threads=2, environment=WHERE)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=300))
def test_statistics_agree_with_numpy(seconds):
    found = report(seconds)
    assert found.median == pytest.approx(float(np.median(seconds)))
    assert found.mean == pytest.approx(float(np.mean(seconds)))
    assert found.min == min(seconds)
    assert found.p90 == (np.quantile(seconds, 0.9, method="inverted_cdf") if len(seconds) >= 10 else None)
    assert found.p99 == (np.quantile(seconds, 0.99, method="inverted_cdf") if len(seconds) >= 100 else None)


def test_text_states_the_conditions():
    assert str(report([0.004] * 99)) == (
        "median 4.000 ms, p99 needs n >= 100, min 4.000 ms (n=99, batch 8, 2 threads, cpu, Made Up 3000, torch 9.9)"
    )
    assert "p99 5.000 ms" in str(report([0.004] * 98 + [0.005, 0.006]))


def test_data():
    data = json.loads(report([0.001, 0.003]).to_json())
    assert data["median"] == 0.002
    assert data["p99"] is None
    assert (data["n"], data["batch"], data["warmup"], data["threads"]) == (2, 8, 3, 2)
    assert data["environment"] == WHERE


class Watched(nn.Module):
    """Notes the settings that it is called under."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.seen: list[tuple[bool, bool, int, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, torch.is_grad_enabled(), torch.get_num_threads(), gc.isenabled()))
        return x


def test_settings_of_the_calls_and_after_them():
    model = Watched()
    model.drop.eval()
    before = torch.get_num_threads()
    found = latency(model, X, threads=2, warmup=3, repeats=5, min_time=0)
    assert model.seen == [(False, False, 2, False)] * 8
    assert (found.n, found.warmup, found.threads, found.batch) == (5, 3, 2, 4)
    assert (model.training, model.drop.training) == (True, False)
    assert (torch.get_num_threads(), gc.isenabled(), torch.is_grad_enabled()) == (before, True, True)
    assert found.environment["threads"] == 2


def test_settings_come_back_after_an_error():
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    model, before = Failing(), torch.get_num_threads()
    with pytest.raises(ValueError, match="no"):
        latency(model, X, threads=before + 1)
    assert (model.training, torch.get_num_threads(), gc.isenabled()) == (True, before, True)


def test_min_time_adds_calls():
    calls = []
    latency(calls.append, X, warmup=0, repeats=1, min_time=0.02)
    assert len(calls) > 10


def test_times_are_those_of_the_call():
    found = latency(lambda x: time.sleep(0.003), X, warmup=0, repeats=3, min_time=0)
    assert 0.003 <= found.min < 0.1


def test_rivals_take_turns():
    log = []
    rivals = {name: lambda x, name=name: log.append(name) for name in "abc"}
    found = compare_latency(rivals, X, rounds=20, calls=2, min_time=0, warmup=1)
    assert log[:3] == ["a", "b", "c"]
    rounds = [log[3 + 6 * i : 9 + 6 * i] for i in range(20)]
    assert all(sorted(turn[::2]) == ["a", "b", "c"] and turn[::2] == turn[1::2] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1, "the order changes between rounds"
    assert (found.rounds, found.is_claim, found.baseline) == (20, False, "a")
    assert sorted(found.ratios) == ["b", "c"]


def test_a_rival_of_half_the_time_is_twice_as_fast():
    rivals = {"slow": lambda x: time.sleep(0.006), "fast": lambda x: time.sleep(0.003)}
    found = compare_latency(rivals, X, rounds=8, min_time=0, warmup=0)
    ratio = found.ratios["fast"]
    assert 1.3 < ratio.ratio < 2.3
    assert ratio.low <= ratio.ratio <= ratio.high
    backwards = compare_latency(rivals, X, rounds=8, min_time=0, warmup=0, baseline="fast")
    assert backwards.ratios["slow"].ratio < 0.8


def test_modules_are_compared_in_eval_mode_and_with_threads():
    models = {"a": Watched(), "b": Watched()}
    found = compare_latency(models, X, rounds=2, min_time=0, warmup=0, threads=2)
    assert all(model.seen == [(False, False, 2, False)] * 2 and model.training for model in models.values())
    assert (found.threads, found.batch) == (2, 4)


def test_pairs_cancel_what_slows_both():
    """A machine that is slow in some rounds widens no interval when both rivals are slowed alike."""
    drift = np.random.default_rng(0).uniform(1, 3, 50)
    found = paired_ratio(list(2e-3 * drift), list(1e-3 * drift))
    assert found.ratio == found.low == found.high == pytest.approx(2)


def test_the_interval_covers_the_truth():
    draw = np.random.default_rng(1)
    hits = 0
    for seed in range(60):
        times = draw.lognormal(0, 0.2, (2, 31))
        found = paired_ratio(list(1.5 * times[0]), list(times[1]), seed)
        hits += found.low <= 1.5 <= found.high
    assert 46 <= hits <= 59  # a 90 % interval, 60 times


def test_the_table_of_a_comparison():
    found = compare_latency({"a": lambda x: None, "b": lambda x: None}, X, rounds=3, min_time=0)
    lines = str(found).splitlines()
    assert lines[0].split() == ["name", "median", "min", "speedup", "90", "%", "low", "90", "%", "high"]
    assert "3 interleaved rounds, batch 4, 1 thread, cpu" in " ".join(lines)
    assert lines[-1] == "fewer than 30 rounds: no claim"
    data = json.loads(found.to_json())
    assert len(data["seconds"]["a"]) == data["rounds"] == 3
    assert set(data["ratios"]["b"]) == {"ratio", "low", "high"}


WRONG = {
    "not callable": (lambda: latency(3, X), "latency takes an nn.Module or a callable; got int 3"),
    "inputs": (
        lambda: latency(len, (1, 2)),
        "example_inputs must be a tensor or a tuple of tensors; got the shape (1, 2): pass torch.zeros(1, 2)",
    ),
    "threads": (lambda: latency(len, X, threads=0), "threads must be a whole number of at least 1; got 0"),
    "repeats": (lambda: latency(len, X, repeats=0), "repeats must be a whole number of at least 1; got 0"),
    "warmup": (lambda: latency(len, X, warmup=-1), "warmup must be a whole number of at least 0; got -1"),
    "min_time": (
        lambda: latency(len, X, min_time=float("inf")),
        "min_time must be a finite number of seconds from 0 up; got inf",
    ),
    "one rival": (
        lambda: compare_latency({"a": len}, X),
        "compare_latency takes {name: callable} with at least two entries; got {'a': <built-in function len>}",
    ),
    "baseline": (
        lambda: compare_latency({"dense": len, "sparse": len}, X, baseline="denze"),
        "unknown baseline 'denze': did you mean 'dense'?",
    ),
    "rounds": (
        lambda: compare_latency({"a": len, "b": len}, X, rounds=0),
        "rounds must be a whole number of at least 1; got 0",
    ),
    "pairs": (lambda: paired_ratio([1.0], []), "paired_ratio needs two equally long lists; got 1 and 0 times"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use(case):
    call, message = WRONG[case]
    with pytest.raises(PrecutError) as caught:
        call()
    assert str(caught.value) == message
