"""Replay against closed forms: queues, known latency laws, the linear programme, the clairvoyant by brute force."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from deadline.points import exact, ladder
from precut import PrecutError
from precut.deadline import (
    Decision,
    Fixed,
    Frontier,
    LayerSkip,
    MeanTime,
    Point,
    Selector,
    Trace,
    best_mixture,
    make_trace,
    policies,
    replay,
    wilson_interval,
)


def trace_of(latency, remaining, accuracies, gap: float = 1e6) -> Trace:
    latency = np.asarray(latency, dtype=float)
    arrival = np.arange(len(latency)) * gap
    names = tuple(f"p{k}" for k in range(latency.shape[1]))
    return Trace(names, tuple(accuracies), arrival, arrival + np.asarray(remaining), latency)


def test_the_clairvoyant_is_the_optimum_request_by_request():
    """Brute force over the points; and nobody does better on any request."""
    draw = np.random.default_rng(0)
    accuracy = [0.5, 0.6, 0.8]
    latency = draw.lognormal(0, 0.5, (800, 3)) * [1e-3, 2e-3, 4e-3]
    remaining = draw.uniform(0.5e-3, 8e-3, 800)
    points = [Point(f"p{k}", a, latency[:400, k]) for k, a in enumerate(accuracy)]
    report = replay(trace_of(latency, remaining, accuracy), points)
    best = [
        max((a for a, t in zip(accuracy, row, strict=True) if t <= left), default=0.0)
        for row, left in zip(latency, remaining, strict=True)
    ]
    clairvoyant = report.delivered(report.outcomes["clairvoyant"])
    assert clairvoyant.tolist() == best
    for name in policies:
        assert (report.delivered(report.outcomes[name]) <= clairvoyant).all(), name
    infeasible = np.mean([not (row <= left).any() for row, left in zip(latency, remaining, strict=True)])
    assert report.rows[0]["oracle_infeasible"] == infeasible
    assert {row["policy"]: row["regret"] for row in report.rows}["clairvoyant"] == 0.0


def test_mean_time_misses_almost_half_at_the_mean():
    """Symmetric noise, a deadline at the mean: half are late. A lognormal law gives 1 - Phi(sigma / 2)."""
    draw = np.random.default_rng(1)
    times = draw.normal(1e-3, 1e-4, (20_000, 1))
    points = [Point("p0", 0.9, times[:5000, 0])]
    mean = float(times[:5000].mean())
    (row,) = replay(trace_of(times, np.full(20_000, mean), [0.9]), points, ["mean-time"]).rows
    assert row["broken_per_promise"] == pytest.approx(0.5, abs=0.02)
    law = draw.lognormal(0, 0.6, (20_000, 1))
    mean = float(law.mean())
    expected = 1 - 0.5 * (1 + math.erf(0.3 / math.sqrt(2)))
    (row,) = replay(trace_of(law, np.full(20_000, mean), [0.9]), [Point("p0", 0.9, law[:, 0])], ["mean-time"]).rows
    assert row["broken_per_promise"] == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("remaining", [1.5, 2.5, 4.0])
def test_delivered_accuracy_of_shifted_exponentials(remaining):
    """P(T <= D) = 1 - exp(-(D - shift) / scale): each fixed network delivers accuracy x that."""
    draw = np.random.default_rng(2)
    n = 40_000
    shifts, scales, accuracy = np.array([0.5, 1.2]), np.array([0.4, 0.9]), [0.6, 0.8]
    latency = shifts + draw.exponential(scales, (n, 2))
    points = [Point(f"p{k}", accuracy[k], latency[:, k]) for k in range(2)]
    own = {f"fixed {point.name}": Fixed(points, point.name) for point in points}
    report = replay(trace_of(latency, np.full(n, remaining), accuracy), points, own)
    for k, row in enumerate(report.rows):
        within = max(0.0, 1 - math.exp(-(remaining - shifts[k]) / scales[k]))
        assert row["accuracy"] == pytest.approx(accuracy[k] * within, abs=0.01)
        low, high = wilson_interval(row["broken"], n)
        assert low - 0.01 <= 1 - within <= high + 0.01


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.2])
def test_best_mixture_is_the_linear_programmes_optimum(budget):
    optimize = pytest.importorskip("scipy.optimize")
    draw = np.random.default_rng(3)
    n, k = 40, 4
    accuracy = np.sort(draw.uniform(0.4, 0.95, k))
    within = np.sort(draw.uniform(0, 1, (n, k)), axis=1)[:, ::-1] ** 0.3
    within[:, 0] = 1 - draw.uniform(0, 0.01, n)
    late = 1 - within
    solved = optimize.linprog(
        -(accuracy * within).ravel() / n,
        A_ub=late.reshape(1, -1),
        b_ub=[budget * n],
        A_eq=np.kron(np.eye(n), np.ones(k)),
        b_eq=np.ones(n),
        method="highs",
    )
    value, price, x = best_mixture(accuracy, within, budget)
    assert value == pytest.approx(-solved.fun, abs=1e-9)
    assert (x * late).sum() <= budget * n + 1e-9
    assert ((x > 1e-12) & (x < 1 - 1e-12)).any(axis=1).sum() <= 1  # one request mixes
    assert x.sum(axis=1) == pytest.approx(np.ones(n))
    assert price == pytest.approx(-solved.ineqlin.marginals[0] * n, abs=1e-9)
    # the value is what drawing points by x delivers
    picks = (draw.random((20_000, n, 1)) < x.cumsum(axis=1)).argmax(axis=2)
    rows = np.arange(n)
    hits = draw.random((20_000, n)) < within[rows, picks]
    assert float((accuracy[picks] * hits).mean()) == pytest.approx(value, abs=0.005)


def test_best_mixture_says_when_nothing_keeps_the_budget():
    with pytest.raises(PrecutError, match=r"even the surest points are late in 50.00 % of requests; the budget is 1 %"):
        best_mixture(np.array([0.5]), np.array([[0.5]]), 0.01)


def test_the_distribution_oracle_keeps_its_budget_and_beats_the_rest():
    points = ladder(5, n=2000, spread=0.25)
    trace = make_trace(points, 8000, deadlines_s=(2.5e-3, 9e-3), seed=4)
    report = replay(trace, points)
    rows = {row["policy"]: row for row in report.rows}
    oracle = rows["law-oracle"]
    assert oracle["broken_per_promise"] == pytest.approx(0.01, abs=0.004)
    for name in ("conformal", "static-p99"):
        if rows[name]["broken_per_promise"] <= 0.011:
            assert rows[name]["accuracy"] <= oracle["accuracy"] + 0.003
    assert rows["conformal"]["broken_per_promise"] <= 0.012
    assert rows["conformal"]["accuracy"] >= oracle["accuracy"] - 0.01
    assert rows["mean-time"]["broken_per_promise"] > 0.1


def test_a_backlog_by_its_closed_form():
    """Constant service s every g < s seconds: request i waits i (s - g), so it is late from i > (D - s) / (s - g) on."""
    service, gap, deadline, n = 1.3, 1.0, 5.0, 40
    points = exact([(service, 0.5)])
    trace = trace_of(np.full((n, 1), service), np.full(n, deadline), [0.5], gap)
    report = replay(trace, points, ["smallest"])
    outcome = report.outcomes["smallest"]
    late = outcome.finish > trace.deadline
    expected = [i * (service - gap) + service > deadline + 1e-9 for i in range(n)]
    assert late.tolist() == expected
    assert report.rows[0]["wait_ms"] == pytest.approx(1e3 * np.mean([i * (service - gap) for i in range(n)]))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_in_an_m_d_1_queue(load):
    """Mean wait rho / (2 mu (1 - rho)) (Pollaczek and Khinchine)."""
    service = 0.01
    points = exact([(service, 0.5)])
    trace = make_trace(
        points, 60_000, deadlines_s=(10.0, 10.0), arrival="poisson", gap_s=service / load, seed=int(100 * load)
    )
    (row,) = replay(trace, points, ["smallest"]).rows
    assert row["wait_ms"] == pytest.approx(1e3 * service * load / (2 * (1 - load)), rel=0.08)


def test_earliest_deadline_first():
    latency = np.full((3, 1), 1.0)
    arrival = np.array([0.0, 0.1, 0.2])
    trace = Trace(("p0",), (0.5,), arrival, np.array([5.0, 4.0, 2.5]), latency)
    report = replay(trace, exact([(1.0, 0.5)]), ["smallest"])
    assert report.outcomes["smallest"].order.tolist() == [0, 2, 1]
    assert report.outcomes["smallest"].finish.tolist() == [1.0, 3.0, 2.0]


def test_bit_exact():
    points = ladder(4)
    trace = make_trace(points, 2000, deadlines_s=(1e-3, 8e-3), load="markov", gap_s=0.01, seed=9)
    first, second = ([row["digest"] for row in replay(trace, points).rows] for _ in range(2))
    assert first == second
    assert len(set(first)) > 5  # the policies differ


def test_own_policies_and_figures():
    class Nothing:
        def choose(self, remaining_s: float) -> Decision:
            return Decision(None, False, "infeasible", remaining_s)

        def observe(self, decision: Decision, seconds: float) -> None:
            raise AssertionError

    points = exact([(1.0, 0.5), (2.0, 0.9)])
    trace = trace_of([[1.0, 2.0]] * 4, [1.5, 2.5, 0.5, 2.5], [0.5, 0.9])
    report = replay(trace, points, {"none": Nothing(), "mean": MeanTime(points), "large": Fixed(points, "p1")})
    none, mean, large = report.rows
    assert (none["miss_rate"], none["promised"], none["accuracy"], none["abstained"]) == (1.0, 0.0, 0.0, 1.0)
    assert mean["accuracy"] == pytest.approx((0.5 + 0.9 + 0 + 0.9) / 4)
    assert (mean["infeasible"], mean["broken"], mean["switches_per_1000"]) == (0.25, 0, 750.0)
    assert (large["broken"], large["broken_per_promise"], large["miss_rate"]) == (2, 0.5, 0.5)
    assert large["accuracy_in_time"] == pytest.approx(0.9)
    assert large["late_p99_ms"] == pytest.approx(1500)
    assert large["regret"] == pytest.approx((0.5 + 0.9 + 0 + 0.9) / 4 - 0.45)


def test_layer_skip_steps_by_feedback():
    points = exact([(1.0, 0.5), (2.0, 0.6), (3.0, 0.7)])
    policy = LayerSkip(points, patience=2)
    names = []
    for seconds in (0.1, 0.1, 0.1, 0.1, 0.1, 9.0, 0.1, 0.1):
        decision = policy.choose(1.0)
        names.append(decision.point.name)
        policy.observe(decision, seconds)
    assert names == ["p0", "p0", "p1", "p1", "p2", "p2", "p1", "p1"]


@pytest.mark.parametrize("load", ["steady", "square", "markov", "ramp"])
def test_the_selector_keeps_its_promises_under_every_load(load):
    points = ladder(6)
    trace = make_trace(points, 4000, deadlines_s=(4e-3, 15e-3), load=load, phase_s=20, seed=11)
    rows = {row["policy"]: row for row in replay(trace, points, ["conformal", "mean-time", "static-p99"]).rows}
    assert rows["conformal"]["broken_per_promise"] <= 0.012
    assert rows["mean-time"]["broken_per_promise"] > 0.05
    if load != "steady":
        assert rows["static-p99"]["broken_per_promise"] > 0.02
        assert rows["conformal"]["accuracy"] > rows["mean-time"]["accuracy"]


def test_table_json_and_picture(tmp_path):
    points = ladder(3)
    trace = make_trace(points, 300, deadlines_s=(1e-3, 8e-3), load="square", seed=1)
    report = replay(trace, points, ["conformal", "mean-time"])
    text = str(report)
    assert "square, 300 requests, 3 points" in text
    assert "conformal" in text
    assert json.loads(json.dumps(report.to_dict()))["policies"][1]["policy"] == "mean-time"
    assert report.plot(tmp_path / "replay.png").read_bytes()[:4] == b"\x89PNG"


def test_wrong_uses():
    points = ladder(3)
    trace = make_trace(points, 20, deadlines_s=(1e-3, 8e-3))
    with pytest.raises(PrecutError, match="the trace has no latencies of point 'p3'; it has p0, p1, p2"):
        replay(trace, ladder(4))
    with pytest.raises(PrecutError, match=r"unknown policy 'meantime': did you mean 'mean-time'\?"):
        replay(trace, points, ["meantime"])
    with pytest.raises(PrecutError, match="replay needs at least one policy"):
        replay(trace, points, [])
    with pytest.raises(PrecutError, match="unknown point 'x'"):
        Fixed(points, "x")


def test_a_selector_of_ones_own_goes_on_learning():
    points = Frontier(ladder(3))
    selector = Selector(points)
    trace = make_trace(points.points, 200, deadlines_s=(1e-3, 8e-3))
    replay(trace, points, {"mine": selector})
    assert selector.stats.rounds == 200


def test_policies_ask_for_the_times_of_the_traces_batch():
    """A profile of batches 1 and 8 is worth as much, for a trace at batch 8, as one of batch 8 alone."""
    draw = np.random.default_rng(0)
    times = {f"p{k}": {1: draw.lognormal(0, 0.1, 400) * 1e-3 * (k + 1)} for k in range(3)}
    both = [Point(n, 0.5 + 0.1 * k, {1: t[1], 8: 6 * t[1]}) for k, (n, t) in enumerate(times.items())]
    alone = [Point(n, 0.5 + 0.1 * k, {8: 6 * t[1]}) for k, (n, t) in enumerate(times.items())]
    trace = make_trace(alone, 400, deadlines_s=(8e-3, 30e-3), batch=8, seed=1)
    names = ["conformal", "static-p99", "mean-time", "ewma"]
    found = [replay(trace, Frontier(points, batch=8), names) for points in (both, alone)]
    for name in names:
        first, second = (one.outcomes[name] for one in found)
        assert first.point.tolist() == second.point.tolist()
        assert first.promised.tolist() == second.promised.tolist()
