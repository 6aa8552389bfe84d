"""broken <= miss_budget T + (alpha_1 + m gamma) / gamma, on every prefix, whatever the latencies do: random ones, and an
adversary that sees every decision before it says how long the work took."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline.points import ladder
from precut.deadline import Decision, Selector

POINTS = ladder(4)
Adversary = Callable[[random.Random, Decision, Selector], float]


def break_all(draw: random.Random, decision: Decision, selector: Selector) -> float:
    return max(0.0, decision.remaining_s) + 1e-3


def just_late(draw: random.Random, decision: Decision, selector: Selector) -> float:
    return max(0.0, decision.remaining_s) * (1 + 1e-12) + 1e-15


def liar(draw: random.Random, decision: Decision, selector: Selector) -> float:
    """Late by a hair whenever something was promised, quick otherwise, so that promises are soon made again."""
    return decision.remaining_s * 1.001 if decision.promised else 1e-6


def lull_then_strike(draw: random.Random, decision: Decision, selector: Selector) -> float:
    """Quick until the budget is as full as it gets, then late until promises stop."""
    striking = selector.alpha > selector.alpha_most * 0.9 or (
        selector.alpha < selector.alpha_first and draw.random() < 0.9
    )
    return max(0.0, decision.remaining_s) * 2 + 1e-3 if striking else 1e-6


def sawtooth(draw: random.Random, decision: Decision, selector: Selector) -> float:
    """Barely in time for long, so that the calibration believes in small quantiles; late at every chance after."""
    return decision.bound_s * (1.5 if decision.number % 60 > 40 else 0.3)


def coin(draw: random.Random, decision: Decision, selector: Selector) -> float:
    return decision.bound_s * draw.choice([0.1, 0.9, 1.1, 50.0])


def fails(draw: random.Random, decision: Decision, selector: Selector) -> float:
    return float("inf") if draw.random() < 0.3 else decision.bound_s * 0.5


ADVERSARIES = [break_all, just_late, liar, lull_then_strike, sawtooth, coin, fails]


def play(selector: Selector, adversary: Adversary, seed: int, rounds: int, waiting: int = 1) -> list[float]:
    """How far broken promises were above budget x T after every round; outcomes come in random order, at most
    ``waiting`` of them outstanding."""
    draw = random.Random(seed)
    open_: list[Decision] = []
    over = []
    for _ in range(rounds):
        remaining = draw.choice([-1e-3, 0.5e-3, 2e-3, 5e-3, 5e-2, draw.uniform(0, 1e-2)])
        decision = selector.choose(remaining)
        if decision.point is not None:
            open_.append(decision)
        while len(open_) >= waiting or (open_ and draw.random() < 0.3):
            done = open_.pop(draw.randrange(len(open_)))
            selector.observe(done, adversary(draw, done, selector))
        stats = selector.stats
        assert stats.broken <= stats.bound + 1e-9
        over.append(stats.broken - selector.miss_budget * stats.rounds)
    return over


@given(
    adversary=st.sampled_from(ADVERSARIES),
    seed=st.integers(0, 2**32),
    budget=st.sampled_from([0.0, 0.01, 0.05, 0.3]),
    gamma=st.sampled_from([0.001, 0.005, 0.05, 0.5]),
    alpha=st.sampled_from([None, 0.0, 0.02]),
    waiting=st.integers(1, 6),
    options=st.fixed_dictionaries(
        {
            "hold": st.sampled_from([0, 3]),
            "margin": st.sampled_from([0.0, 0.2]),
            "infeasible": st.sampled_from(["smallest", "drop"]),
            "window": st.sampled_from([10, 200]),
            "probe_every": st.sampled_from([0, 7]),
            "follow": st.sampled_from([(0.0, 0.0), (0.5, 0.2), (1.0, 1.0)]),
        }
    ),
)
@settings(max_examples=60, deadline=None)
def test_on_every_prefix(adversary, seed, budget, gamma, alpha, waiting, options):
    selector = Selector(POINTS, budget, gamma, alpha=alpha, **options)
    first = budget if alpha is None else alpha
    over = play(selector, adversary, seed, 250, waiting)
    assert max(over) <= (first + waiting * gamma) / gamma + 1e-9


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_long_and_hostile(adversary):
    """The defaults over 5,000 rounds: at most 3 above the budget. (The design sheet measured +2.98.)"""
    assert max(play(Selector(POINTS), adversary, 0, 5000)) <= 3 + 1e-9


def test_the_bound_is_tight():
    """An adversary that breaks whatever is promised gets close: the guarantee is not kept by never promising."""
    selector = Selector(POINTS)
    over = play(selector, liar, 0, 5000)
    assert max(over) > 1.9
    assert selector.stats.broken > selector.stats.bound - 3


@pytest.mark.slow
@given(st.sampled_from(ADVERSARIES), st.integers(0, 2**32), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_on_every_prefix_at_length(adversary, seed, waiting):
    over = play(Selector(POINTS), adversary, seed, 2000, waiting)
    assert max(over) <= (0.01 + waiting * 0.005) / 0.005 + 1e-9


def square_wave(selector: Selector, rounds: int = 6000) -> Selector:
    """One point of 1 ms (p99 about 1.26 ms), slowed 2.5 times every other 500 rounds, against 2.4 ms."""
    draw = random.Random(5)
    for t in range(rounds):
        decision = selector.choose(2.4e-3)
        slow = 2.5 if t // 500 % 2 else 1.0
        selector.observe(decision, 1e-3 * draw.lognormvariate(0, 0.1) * slow)
    return selector


def test_square_wave_against_the_static_rule():
    """The design sheet's: on a 1x/2.5x square wave the static p99 rule misses about half, this one about 1 %."""
    static = square_wave(Selector(ladder(1), mode="static")).stats
    assert 0.3 < static.broken / static.rounds < 0.6
    adaptive = square_wave(Selector(ladder(1))).stats
    assert adaptive.broken <= 0.01 * adaptive.rounds + 3
    assert adaptive.promised > 0.45 * adaptive.rounds  # the quiet half is promised nearly always


def test_hysteresis_picks_admitted_points_only():
    """A promise is made for a point whose bound fits, held back or not."""
    for hold in (0, 5):
        selector = Selector(POINTS, hold=hold, margin=0.1)
        draw = random.Random(1)
        for _ in range(2000):
            remaining = draw.uniform(0.5e-3, 8e-3)
            bounds = selector.bounds()
            decision = selector.choose(remaining)
            if decision.promised:
                assert decision.bound_s == pytest.approx(bounds[decision.point.name])
                assert decision.bound_s <= remaining * (1 + 1e-12)
            selector.observe(decision, decision.expected_s * draw.uniform(0.3, 1.1))
