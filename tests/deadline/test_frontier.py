"""The frontier against brute force, its covers against exhaustive search, McNemar against scipy."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline.points import exact, ladder
from precut import PrecutError
from precut.deadline import Frontier, Point, Profile, mcnemar
from precut.measure import environment

PAIRS = st.lists(
    st.tuples(st.integers(1, 8).map(lambda t: t * 1e-3), st.integers(0, 10).map(lambda a: a / 10)),
    min_size=1,
    max_size=9,
)


@given(PAIRS, st.randoms())
@settings(max_examples=100, deadline=None)
def test_brute_force_dominance(pairs, order):
    points = exact(pairs)
    frontier = Frontier(points)
    beaten = [
        any((t <= time and a > accuracy) or (t < time and a >= accuracy) for t, a in pairs) for time, accuracy in pairs
    ]
    expected = {pair for pair, worse in zip(pairs, beaten, strict=True) if not worse}
    found = [(point.time("p50"), point.accuracy) for point in frontier]
    assert set(found) == expected
    assert len(found) == len(expected)
    assert sorted(found) == found
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(found))
    order.shuffle(points)
    again = [(point.time("p50"), point.accuracy) for point in Frontier(points)]
    assert again == found
    assert len(frontier.dropped) + len(frontier) == len(points)


def loss_of(chain, kept):
    """Accuracy lost by keeping only ``kept``, over every time budget at which a point becomes affordable."""
    worst = 0.0
    for time, accuracy in chain:
        best = max((a for t, a in kept if t <= time), default=None)
        if best is None:
            return float("inf")
        worst = max(worst, accuracy - best)
    return worst


@given(PAIRS, st.integers(0, 6).map(lambda n: n / 20))
@settings(max_examples=80, deadline=None)
def test_covers_are_the_smallest_within_their_tolerance(pairs, tolerance):
    chain = [(point.time("p50"), point.accuracy) for point in Frontier(exact(pairs))]
    cover = Frontier(exact(pairs), tolerance=tolerance)
    kept = [(point.time("p50"), point.accuracy) for point in cover]
    assert loss_of(chain, kept) == pytest.approx(cover.loss)
    assert cover.loss <= tolerance + 1e-12
    fewest = min(
        size
        for size in range(1, len(chain) + 1)
        for subset in itertools.combinations(chain, size)
        if loss_of(chain, subset) <= tolerance
    )
    assert len(kept) == fewest


@given(PAIRS, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_limits_lose_as_little_as_they_can(pairs, most):
    chain = [(point.time("p50"), point.accuracy) for point in Frontier(exact(pairs))]
    kept = Frontier(exact(pairs), max_points=most)
    assert len(kept) <= most
    best = min(
        loss_of(chain, subset)
        for size in range(1, min(most, len(chain)) + 1)
        for subset in itertools.combinations(chain, size)
    )
    assert kept.loss == pytest.approx(best)


def test_memory_of_the_kept_set():
    points = [Point(f"p{i}", 0.1 * (i + 1), [1e-3 * (i + 1)] * 300, memory_bytes=1000 * (i + 1)) for i in range(4)]
    assert Frontier(points).memory_bytes == 10_000
    small = Frontier(points, max_bytes=5000)
    assert small.memory_bytes <= 5000
    assert [point.name for point in small] == ["p0", "p2"]  # p1 + p3 beside p0 would be 7000; p0 + p3 loses more
    assert small.loss == pytest.approx(0.1)
    with pytest.raises(PrecutError, match=r"not even the quickest point alone fits: 'p0' takes 1.000 kB"):
        Frontier(points, max_bytes=500)
    with pytest.raises(PrecutError, match="point 'p0' does not say its memory"):
        Frontier(ladder(2), max_bytes=10)
    assert Frontier(ladder(2)).memory_bytes is None


def test_the_statistic_decides():
    steady = Point("steady", 0.7, [2e-3] * 400)
    wild = Point("wild", 0.8, [1e-3] * 390 + [9e-3] * 10)
    assert [point.name for point in Frontier([steady, wild], time="p50")] == ["wild"]
    assert [point.name for point in Frontier([steady, wild])] == ["steady", "wild"]
    assert Frontier([steady, wild], time="mean").times == pytest.approx([1.2e-3])


def test_mcnemar_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(3)
    for _ in range(20):
        n = draw.randrange(5, 400)
        first = [draw.random() < 0.8 for _ in range(n)]
        second = [right if draw.random() < 0.9 else not right for right in first]
        b = sum(x and not y for x, y in zip(first, second, strict=True))
        c = sum(y and not x for x, y in zip(first, second, strict=True))
        expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
        assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(PrecutError, match="pairs the same images; got 2 and 3"):
        mcnemar([True, False], [True, False, True])


def test_neighbours_that_cannot_be_told_apart_are_marked():
    base = [index % 5 != 0 for index in range(1000)]
    same = [right or index == 0 for index, right in enumerate(base)]  # one image better
    better = [right or index % 10 == 0 for index, right in enumerate(same)]
    points = [
        Point(f"p{i}", sum(c) / 1000, [1e-3 * (i + 1)] * 300, correct=c) for i, c in enumerate((base, same, better))
    ]
    frontier = Frontier(points)
    assert frontier.p_values()[0] == 1.0
    assert frontier.p_values()[1] < 1e-6
    marks = [row["mark"] for row in frontier.table().rows]
    assert marks == ["", "not told apart from the one above", ""]
    assert Frontier(ladder(2)).p_values() == [None]


def test_json_and_picture(tmp_path):
    points = [
        Point(f"p{i}", 0.5 + 0.1 * i, {1: [1e-3 * (i + 1)] * 300, 8: [5e-3 * (i + 1)] * 300}, energy_j={1: 0.5 + i},
              memory_bytes=7, correct=[True, False])
        for i in range(3)
    ]  # fmt: skip
    frontier = Frontier(points, tolerance=0.1)
    path = frontier.save(tmp_path / "frontier.json")
    json.loads(path.read_text())
    back = Frontier.load(path, {"p0": len})
    assert back.to_dict() == frontier.to_dict()
    assert (back.loss, back.dropped) == (frontier.loss, frontier.dropped)
    assert back["p0"].run is len
    assert back["p2"].run is None
    assert frontier.plot(tmp_path / "frontier.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(PrecutError, match="is not JSON"):
        Frontier.load(frontier.plot(tmp_path / "x.svg"))
    with pytest.raises(PrecutError, match="there is no frontier file"):
        Frontier.load(tmp_path / "none.json")


def test_a_file_knows_its_machine(tmp_path):
    """A frontier of a profile is refused elsewhere, as its profile is; one that was made by hand knows no machine."""
    points = tuple(ladder(2))
    path = Profile(points, environment(), 300, 0).frontier().save(tmp_path / "here.json")
    assert Frontier.load(path).environment == environment()
    data = json.loads(path.read_text())
    data["environment"]["cores"] = 999
    path.write_text(json.dumps(data))
    with pytest.raises(PrecutError, match=r"another machine \(cores 999, here .*other_machine=True"):
        Frontier.load(path)
    back = Frontier.load(path, other_machine=True)
    assert back.times == pytest.approx(Frontier(points).times, abs=1e-9)
    data["environment"] = {**environment(), "device": "Another GPU 9000"}
    path.write_text(json.dumps(data))
    with pytest.raises(PrecutError, match=r'another machine \(device "Another GPU 9000", here "cpu"\)'):
        Frontier.load(path)
    assert Frontier.load(Frontier(points).save(tmp_path / "made.json")).environment is None


def test_best_by_time():
    frontier = Frontier(exact([(1e-3, 0.5), (2e-3, 0.6)]))
    assert frontier.best(0.5e-3) is None
    assert frontier.best(1e-3).name == "p0"
    assert frontier.best(1.0).name == "p1"


def test_wrong_uses():
    with pytest.raises(PrecutError, match="a frontier needs at least one point; got none"):
        Frontier([])
    with pytest.raises(PrecutError, match="two points are named 'p0'"):
        Frontier([*ladder(1), *ladder(1)])
    with pytest.raises(PrecutError, match=r"takes deadline.Point objects; got str 'p0'"):
        Frontier(["p0"])
    with pytest.raises(
        PrecutError, match=r"point 'p0', batch 1: an upper bound of p99 .* needs at least 299 samples; got 9"
    ):
        Frontier(ladder(1, n=9))
    with pytest.raises(PrecutError, match="unknown time statistic 'p98': did you mean 'p99'"):
        Frontier(ladder(2), time="p98")
    with pytest.raises(PrecutError, match=r"no point has an accuracy of at least 0.9; the best of 2 has 0.5200"):
        Frontier(ladder(2), min_accuracy=0.9)
    with pytest.raises(PrecutError, match=r"tolerance must be a share of right answers from 0 and below 1; got 2"):
        Frontier(ladder(2), tolerance=2)
    with pytest.raises(PrecutError, match=r"was not measured at batch 4; its largest is 1"):
        Frontier(ladder(2), batch=4)
    with pytest.raises(PrecutError, match="unknown point of the frontier 'p9'"):
        Frontier(ladder(2))["p9"]
    with pytest.raises(PrecutError, match="times are finite seconds above 0; got nan"):
        Point("x", 0.5, [float("nan")])
    with pytest.raises(PrecutError, match=r"accuracy must be a share from 0 to 1; got 85"):
        Point("x", 85, [1.0])
    for samples in (3, None, ["x"]):
        with pytest.raises(PrecutError, match="point 'x', batch 1: samples are a sequence of seconds; got"):
            Point("x", 0.5, samples)
    with pytest.raises(PrecutError, match="has no samples at batch 1"):
        Point("x", 0.5, [])


def test_a_file_of_ours_that_lacks_something(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps({"format": "precut-frontier-1"}))
    with pytest.raises(PrecutError, match=r"cut\.json' is damaged or was written by hand: KeyError 'points'"):
        Frontier.load(path, other_machine=True)
