"""Trace files, and the laws that generated traces follow."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deadline.points import exact, ladder
from precut import PrecutError
from precut.deadline import Trace, arrivals, loads, make_trace

RANGE = (1e-3, 9e-3)


def same(first: Trace, second: Trace) -> bool:
    return (
        first.points == second.points
        and first.accuracies == second.accuracies
        and all(np.array_equal(getattr(first, k), getattr(second, k)) for k in ("arrival", "deadline", "latency"))
        and dict(first.meta) == dict(second.meta)
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_files_keep_every_bit(tmp_path, suffix):
    trace = make_trace(ladder(3), 200, deadlines_s=RANGE, load="markov", seed=3)
    assert same(Trace.read(trace.write(tmp_path / f"trace{suffix}")), trace)


def test_lines_by_hand(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"arrival": i, "deadline": i + 0.5, "latency": {"a": 0.1, "b": 0.2 + i}} for i in range(3)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    trace = Trace.read(path, {"a": 0.5, "b": 0.7})
    assert trace.points == ("a", "b")
    assert trace.latency.tolist() == [[0.1, 0.2], [0.1, 1.2], [0.1, 2.2]]
    with pytest.raises(PrecutError, match="does not tell the accuracy of point 'a'"):
        Trace.read(path)
    only = trace.only(["b"])
    assert (only.points, only.latency.shape) == (("b",), (3, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a trace needs at least one request"),
        ('{"arrival": 0}', r"line 1 of .* is not \{arrival, deadline, latency: .*KeyError"),
        ("[1, 2]", "line 1 of .*TypeError"),
        ('{"arrival": 0, "deadline": 1, "latency": {"a": 1}}\nnonsense', "line 2 of"),
        ('{"arrival": 0, "deadline": 1, "latency": {"a": 1}}\n{"arrival": 0, "deadline": 1, "latency": {"b": 1}}',
         r"line 2 of .* has points \['b'\]; the first \['a'\]"),
        ('{"arrival": 1, "deadline": 1, "latency": {"a": 1}}\n{"arrival": 0, "deadline": 1, "latency": {"a": 1}}',
         "request 1 comes before the last one"),
        ('{"arrival": 1, "deadline": NaN, "latency": {"a": 1}}', "arrivals and deadlines must be finite"),
        ('{"arrival": 1, "deadline": 2, "latency": {"a": 0}}', "latencies must be finite seconds above 0"),
        ('{"format": "other-1"}\n{"arrival": 1, "deadline": 2, "latency": {"a": 1}}', "has format 'other-1'"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path, text, message):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(PrecutError, match=message):
        Trace.read(path, {"a": 0.5, "b": 0.5})


def test_wrong_names(tmp_path):
    trace = make_trace(ladder(2), 5, deadlines_s=RANGE)
    with pytest.raises(PrecutError, match=r"must end in .jsonl or .parquet; got 'x.csv'"):
        trace.write("x.csv")
    with pytest.raises(PrecutError, match="there is no trace file"):
        Trace.read(tmp_path / "x.jsonl")
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(PrecutError, match="is not a parquet file with columns"):
        Trace.read(tmp_path / "x.parquet")
    with pytest.raises(PrecutError, match="unknown point of the trace 'p7'"):
        trace.only(["p7"])


@pytest.mark.parametrize("load", list(loads))
@pytest.mark.parametrize("arrival", list(arrivals))
def test_bit_exact_by_seed(load, arrival):
    made = [make_trace(ladder(2), 300, deadlines_s=RANGE, load=load, arrival=arrival, seed=seed) for seed in (5, 5, 6)]
    assert same(made[0], made[1])
    assert not same(made[0], made[2])


def test_another_load_leaves_the_rest_as_it_was():
    quiet, loaded = (make_trace(ladder(2), 500, deadlines_s=RANGE, load=load, seed=1) for load in ("steady", "square"))
    assert np.array_equal(quiet.deadline, loaded.deadline)
    ratio = loaded.latency / quiet.latency
    assert set(np.round(ratio.ravel(), 9)) == {1.0, 2.5}


def test_shapes_of_the_loads():
    points = exact([(1e-3, 0.5)])
    arguments = {"deadlines_s": RANGE, "gap_s": 0.01, "phase_s": 1.0, "slowdown": 3.0}

    def factor(load: str, n: int) -> np.ndarray:
        return make_trace(points, n, load=load, **arguments).latency[:, 0] / 1e-3

    assert factor("steady", 50) == pytest.approx(np.ones(50))
    square = factor("square", 400)
    assert square == pytest.approx(np.repeat([1, 3, 1, 3], 100))
    ramp = factor("ramp", 201)
    assert ramp[[0, 50, 100, 150, 200]] == pytest.approx([1, 2, 3, 2, 1])
    markov = factor("markov", 200_000)  # 2,000 s: about 1,333 bursts of 0.5 s
    assert (markov > 2).mean() == pytest.approx(1 / 3, abs=0.03)
    bursts = (np.diff((markov > 2).astype(int)) == 1).sum()
    assert bursts == pytest.approx(2000 / 1.5, rel=0.1)


def test_poisson_gaps_are_exponential():
    stats = pytest.importorskip("scipy.stats")
    trace = make_trace(exact([(1e-3, 0.5)]), 5000, deadlines_s=RANGE, arrival="poisson", gap_s=0.2, seed=2)
    assert stats.kstest(np.diff(trace.arrival), "expon", args=(0, 0.2)).pvalue > 0.01
    after = trace.deadline - trace.arrival
    assert stats.kstest(after, "uniform", args=(1e-3, 8e-3)).pvalue > 0.01


def test_wrong_uses():
    with pytest.raises(PrecutError, match=r"unknown load 'squared': did you mean 'square'\?"):
        make_trace(ladder(2), 5, deadlines_s=RANGE, load="squared")
    with pytest.raises(PrecutError, match="unknown arrival law 'burst'"):
        make_trace(ladder(2), 5, deadlines_s=RANGE, arrival="burst")
    with pytest.raises(PrecutError, match="deadlines lie from a low to a high number"):
        make_trace(ladder(2), 5, deadlines_s=(2, 1))
    with pytest.raises(PrecutError, match="gap_s must be a number above 0; got 0"):
        make_trace(ladder(2), 5, deadlines_s=RANGE, gap_s=0)
