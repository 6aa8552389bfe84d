"""What is chosen, against brute force over the bounds; states, threads, constraints, wrong uses."""

from __future__ import annotations

import json
import math
import random
import re
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadline.points import exact, ladder, lognormal
from precut import PrecutError
from precut.deadline import Frontier, InfeasibleError, Point, Selector
from precut.deadline._scores import Scores
from precut.measure import Constraints


def drive(selector: Selector, seed: int, rounds: int, low: float = 0.5e-3, high: float = 9e-3) -> list[tuple]:
    draw = random.Random(seed)
    log = []
    for _ in range(rounds):
        decision = selector.choose(draw.uniform(low, high))
        name = None if decision.point is None else decision.point.name
        log.append((name, decision.promised, decision.reason, decision.bound_s))
        if decision.point is not None:
            seconds = decision.point.time("p50") * draw.lognormvariate(0, 0.1)
            selector.observe(decision, seconds)
    return log


def test_the_most_accurate_that_fits_by_brute_force():
    selector = Selector(ladder(6), probe_every=0)
    draw = random.Random(0)
    by_name = {point.name: point for point in selector.points}
    for _ in range(2000):
        remaining = draw.uniform(0.2e-3, 9e-3)
        bounds = selector.bounds()
        fitting = [name for name, bound in bounds.items() if bound <= remaining]
        decision = selector.choose(remaining)
        if fitting:
            assert decision.point.name == max(fitting, key=lambda name: by_name[name].accuracy)
            assert decision.reason == ("fits" if decision.promised else "withheld")
        else:
            assert (decision.point.name, decision.promised, decision.reason) == ("p0", False, "infeasible")
        selector.observe(decision, decision.point.time("p50") * draw.lognormvariate(0, 0.2))


def test_static_mode_is_the_profiles_p99():
    frontier = Frontier(exact([(1e-3, 0.5), (2e-3, 0.6), (4e-3, 0.7)]))
    selector = Selector(frontier, mode="static", reserve_s=0.5e-3)
    for remaining, expected in ((1.49e-3, None), (1.5e-3, "p0"), (2.6e-3, "p1"), (4.5e-3, "p2"), (math.inf, "p2")):
        decision = selector.choose(remaining)
        assert decision.promised == (expected is not None)
        assert decision.point.name == (expected or "p0")
        selector.observe(decision, 1.0)  # late, and nothing is learnt
    assert selector.stats.broken == 3
    assert selector.stats.bound == math.inf


def test_none_fits():
    points = exact([(1e-3, 0.5), (2e-3, 0.6)])
    smallest = Selector(points).choose(1e-6)
    assert (smallest.point.name, smallest.promised, smallest.reason) == ("p0", False, "infeasible")
    drop = Selector(points, infeasible="drop")
    assert drop.choose(1e-6).point is None
    assert drop.choose(-5.0).point is None
    assert (drop.stats.infeasible, drop.stats.dropped, drop.stats.abstentions) == (2, 2, 2)
    strict = Selector(points, infeasible="raise")
    with pytest.raises(InfeasibleError, match=r"^0.001 ms are left, and the quickest point, 'p0', needs 1.000 ms$"):
        strict.choose(1e-6)
    assert strict.stats.infeasible == 1
    assert isinstance(InfeasibleError("x"), PrecutError)


def test_the_quickest_that_is_accurate_enough():
    selector = Selector(exact([(1e-3, 0.5), (2e-3, 0.6), (4e-3, 0.7)]))
    free = selector.choose(min_accuracy=0.55)
    assert (free.point.name, free.promised, free.reason) == ("p1", False, "no deadline")
    assert selector.choose().point.name == "p2"
    both = selector.choose(1.0, min_accuracy=0.55)
    assert (both.point.name, both.promised) == ("p2", True)
    best_effort = selector.choose(1.5e-3, min_accuracy=0.55)
    assert (best_effort.point.name, best_effort.reason) == ("p1", "infeasible")
    assert selector.choose(1.0, min_accuracy=0.9).point is None
    assert selector.choose(min_accuracy=0.9).point is None
    assert selector.stats.free == 2
    assert selector.stats.infeasible == 3


def test_constraints_record():
    points = [
        Point(f"p{i}", 0.5 + 0.1 * i, {1: [1e-3 * (i + 1)] * 300, 8: [4e-3 * (i + 1)] * 300},
              energy_j={1: 1.0 + i, 8: 4.0 + i}, memory_bytes=1000 * (i + 1))
        for i in range(4)
    ]  # fmt: skip
    selector = Selector(points, probe_every=0)

    def name(**limits) -> str:
        return selector.choose(constraints=Constraints(**limits)).point.name

    assert name(deadline_s=1.0) == "p3"
    assert name(deadline_s=1.0, energy_j=2.5) == "p1"
    assert name(deadline_s=1.0, memory_bytes=3000) == "p2"
    assert name(min_accuracy=0.55, energy_j=3.5) == "p1"
    assert name(throughput=400) == "p1"  # 2.5 ms an example
    assert selector.choose(constraints=Constraints(throughput=400), batch=8).point.name == "p3"  # 20 ms for eight
    assert selector.choose(1.0, energy_j=5.5, batch=5).point.name == "p1"  # counts as a batch of 8
    with pytest.raises(PrecutError, match="either constraints or remaining_s"):
        selector.choose(1.0, constraints=Constraints())
    bare = Selector(exact([(1e-3, 0.5)]))
    with pytest.raises(PrecutError, match="the energy of point 'p0' at batch 1 is not known"):
        bare.choose(1.0, energy_j=1.0)
    with pytest.raises(PrecutError, match="the memory of point 'p0' is not known"):
        bare.choose(constraints=Constraints(memory_bytes=5))
    with pytest.raises(PrecutError, match="min_accuracy is a share from 0 to 1; got 85"):
        Constraints(min_accuracy=85)


def test_batches_have_their_own_times():
    points = [
        Point("a", 0.5, {1: [1e-3] * 300, 4: [2e-3] * 300}),
        Point("b", 0.7, {1: [2e-3] * 300, 4: [7e-3] * 300}),
        Point("c", 0.8, {1: [2.5e-3] * 300}),
    ]
    selector = Selector(points, mode="static")
    assert selector.choose(3e-3).point.name == "c"
    assert selector.choose(6e-3, batch=3).point.name == "a"
    assert selector.choose(math.inf, batch=4).point.name == "b"  # c was never measured at 4, so nothing is known of it
    with pytest.raises(PrecutError, match=r"no point was measured at batch 5; measured sizes are \[1, 4\]"):
        selector.choose(1.0, batch=5)
    with pytest.raises(PrecutError, match="batch must be a whole number of at least 1; got 0"):
        selector.choose(1.0, batch=0)


def test_slow_downs_are_followed_and_forgotten():
    selector = Selector(ladder(4))
    drive(selector, 0, 300)
    assert selector.slowdown == pytest.approx(1, abs=0.3)
    quiet = selector.bounds()
    for _ in range(20):
        decision = selector.choose(5e-3)
        selector.observe(decision, 3 * decision.point.time("p50"))
    assert selector.slowdown == pytest.approx(3, rel=0.1)
    assert all(bound > 2 * quiet[name] for name, bound in selector.bounds().items())
    drive(selector, 1, 1500)
    assert all(bound < 1.5 * quiet[name] for name, bound in selector.bounds().items())


def test_points_keep_their_own_slow_down():
    """Contention slows the large point threefold and the small not at all: one factor for both would be wrong for both."""
    points = [
        Point("small", 0.5, lognormal(0, 1e-3, spread=0.02)),
        Point("large", 0.9, lognormal(1, 2e-3, spread=0.02)),
    ]
    selector = Selector(points, follow=(0, 0))
    draw = random.Random(0)
    for step in range(1500):
        decision = (
            selector.choose(1e-1, min_accuracy=0.9 if step % 2 else None) if step % 2 else selector.choose(1.9e-3)
        )
        factor = 3 if decision.point.name == "large" else 1
        selector.observe(decision, factor * decision.point.time("p50") * draw.lognormvariate(0, 0.02))
    bounds = selector.bounds()
    assert bounds["large"] == pytest.approx(6e-3, rel=0.15)
    assert bounds["small"] < 1.7e-3


def test_a_point_believed_slow_is_probed():
    """The large point was slow once, and no more is known of it; a probe, without a promise, finds out."""
    points = [Point("small", 0.5, lognormal(0, 1e-3)), Point("large", 0.9, lognormal(1, 2e-3))]
    for every, found in ((0, False), (10, True)):
        selector = Selector(points, follow=(0, 0), window=200, shrink=5, probe_every=every)
        for _ in range(3):
            selector.observe(selector.choose(5e-3), 2e-3)
        for _ in range(250):  # the small one, now 2.6 times slower, speaks for all
            selector.observe(selector.choose(2.5e-3), 2.6e-3)
        chosen = []
        for _ in range(400):
            decision = selector.choose(4e-3)
            slow = {"small": 2.6e-3, "large": 2.1e-3}[decision.point.name]
            selector.observe(decision, slow)
            chosen.append(decision)
        assert ("large" in [d.point.name for d in chosen if d.promised]) == found
        assert (selector.stats.probes > 0) == found
        assert all(not d.promised for d in chosen if d.reason == "probe")


def test_dropping_does_not_stop_the_learning():
    """After a burst nothing fits, so nothing runs, so nothing is learnt; but for the probes."""
    for every, recovers in ((0, False), (20, True)):
        selector = Selector(ladder(2), infeasible="drop", probe_every=every, window=50)
        for _ in range(40):
            decision = selector.choose(3e-3)
            if decision.point is not None:
                selector.observe(decision, 50e-3)
        promised = 0
        for _ in range(2000):
            decision = selector.choose(3e-3)
            promised += decision.promised
            if decision.point is not None:
                selector.observe(decision, decision.point.time("p50"))
        assert (promised > 500) == recovers


def test_hold_and_margin():
    points = exact([(1e-3, 0.5), (2e-3, 0.6)])
    selector = Selector(points, hold=3, margin=0.5, probe_every=0, follow=(0, 0))

    def step(remaining: float) -> str:
        decision = selector.choose(remaining)
        selector.observe(decision, decision.point.time("p50"))
        return decision.point.name

    assert step(9e-3) == "p1"
    assert step(1.5e-3) == "p0"  # down at once
    assert [step(9e-3) for _ in range(4)] == ["p0", "p0", "p1", "p1"]  # up after three kept promises
    assert step(1.5e-3) == "p0"
    for _ in range(5):
        assert step(2.5e-3) == "p0"  # p1 fits, but not with half its time to spare
    assert step(3.5e-3) == "p1"


def test_the_state_goes_on_exactly(tmp_path):
    first = Selector(ladder(5))
    drive(first, 0, 700)
    text = json.dumps(first.state_dict())
    second = Selector(ladder(5))
    second.load_state_dict(json.loads(text))
    assert second.stats == first.stats
    assert drive(second, 3, 1500) == drive(first, 3, 1500)
    assert second.stats == first.stats


def test_a_state_books_what_it_will_not_hear_of():
    selector = Selector(ladder(2))
    decision = selector.choose(1.0)
    state = selector.state_dict()
    other = Selector(ladder(2))
    other.load_state_dict(state)
    assert (other.stats.broken, other.stats.forgotten, other.alpha) == (1, 1, pytest.approx(0.01 - 0.005 * 0.99))
    with pytest.raises(PrecutError, match="decision 0 does not wait for an outcome"):
        other.observe(decision, 1e-3)
    selector.observe(decision, 1e-3)  # the first selector still does
    assert selector.stats.broken == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": ["x"]}, "its points is"),
        ({"gamma": 0.1}, "its gamma is 0.1, here 0.005"),
        ({"format": None}, "its format is None"),
        ({"scores": [[9, 1.0]]}, "damaged: IndexError"),
        ({"scores": [["a"]]}, "damaged: ValueError"),
        ({"ledger": {}}, "damaged: KeyError 'counts'"),
    ],
)
def test_wrong_states_change_nothing(change, message):
    selector = Selector(ladder(2))
    drive(selector, 0, 50)
    before = selector.state_dict()
    with pytest.raises(PrecutError, match=message):
        selector.load_state_dict({**Selector(ladder(2)).state_dict(), **change})
    assert selector.state_dict() == before


def test_several_threads():
    selector = Selector(ladder(4), outstanding=64)
    failed = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        try:
            for _ in range(800):
                decision = selector.choose(draw.uniform(1e-3, 8e-3))
                selector.observe(decision, decision.expected_s * draw.uniform(0.2, 1.3))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = selector.stats
    assert failed == []
    assert stats.rounds == 4800 == stats.promised + stats.abstentions
    assert stats.promised == stats.kept + stats.broken
    assert 1 <= stats.most_outstanding <= 6
    assert stats.broken <= stats.bound + 1e-9


def test_forgotten_promises_count_as_broken_and_memory_is_bounded():
    selector = Selector(ladder(2), outstanding=10, window=100)
    for _ in range(5000):
        selector.choose(1.0)
    stats = selector.stats
    assert stats.forgotten == stats.broken > 0
    assert stats.broken <= stats.bound
    for _ in range(2000):
        selector.observe(selector.choose(1.0), 1e-3)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(3000):
        selector.observe(selector.choose(1.0), 1e-3)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000  # floats are replaced; nothing is added


def test_wrong_uses():
    with pytest.raises(PrecutError, match="needs at least one operating point; the frontier is empty"):
        Selector([])
    for name, value in (("miss_budget", 1.5), ("gamma", 0), ("alpha", -1), ("reserve_s", -1), ("shrink", None)):
        with pytest.raises(PrecutError, match=rf"^{name} must be a number from"):
            Selector(ladder(2), **{name: value})
    with pytest.raises(PrecutError, match="unknown mode 'mean': choose one of"):
        Selector(ladder(2), mode="mean")
    with pytest.raises(PrecutError, match=r"unknown way of the infeasible 'drops': did you mean 'drop'\?"):
        Selector(ladder(2), infeasible="drops")
    with pytest.raises(PrecutError, match="window must be a whole number of at least 10; got 3"):
        Selector(ladder(2), window=3)
    for follow in (0.2, (0.2,)):
        with pytest.raises(PrecutError, match="follow must be two shares from 0 to 1"):
            Selector(ladder(2), follow=follow)
    selector = Selector(ladder(2))
    for wrong in (math.nan, "1", True, [1.0]):
        with pytest.raises(PrecutError, match=re.escape(f"remaining_s must be a number of seconds; got {wrong!r}")):
            selector.choose(wrong)
    for wrong in (math.nan, "high"):
        with pytest.raises(PrecutError, match="min_accuracy must be a share from 0 to 1; got"):
            selector.choose(1.0, min_accuracy=wrong)
        with pytest.raises(PrecutError, match="energy_j must be a number of joules; got"):
            selector.choose(1.0, energy_j=wrong)
    decision = selector.choose(np.float32(1.0))
    with pytest.raises(PrecutError, match="observe takes a decision as choose gave it; got None"):
        selector.observe(None, 1.0)
    for seconds in (math.nan, -1e-9, "1", None):
        with pytest.raises(PrecutError, match="seconds must be a number from 0 up; got"):
            selector.observe(decision, seconds)
    selector.observe(decision, 0.0)
    with pytest.raises(PrecutError, match="decision 0 does not wait for an outcome: it was observed before"):
        selector.observe(decision, 1e-3)
    assert selector.stats.rounds == 1
    mine, other = selector.choose(1.0), Selector(ladder(2)).choose(1.0)
    with pytest.raises(PrecutError, match=r"is another selector's"):
        selector.observe(other._replace(number=mine.number), 1e-3)
    selector.observe(mine, 1e-3)


@given(
    scores=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 8)), min_size=1, max_size=40),
    expected=st.lists(st.floats(1e-6, 10), min_size=4, max_size=4),
    alpha=st.floats(-0.01, 0.6),
    limit=st.floats(-1, 20),
)
def test_the_quick_search_finds_what_the_quantiles_say(scores, expected, alpha, limit):
    window = Scores(4, 30, 5.0)
    for place, score in scores:
        window.add(place, score)
    bounds = [window.quantile(place, alpha) * expected[place] for place in range(4)]
    place, bound = window.first_fit(range(4), expected, alpha, limit)
    assert place == next((k for k in range(4) if bounds[k] <= limit), -1)
    assert bound == (bounds[place] if place >= 0 else math.inf)
