"""Rules that choose a point: the selector, and what it is compared with, in one registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from precut._registry import Registry
from precut.deadline._decision import FITS, INFEASIBLE, Decision
from precut.deadline._frontier import Frontier
from precut.deadline._point import Point
from precut.deadline._selector import Selector
from precut.deadline._trace import Trace
from precut.errors import PrecutError, unknown

__all__ = ["Ewma", "Fixed", "LayerSkip", "MeanTime", "Policy", "World", "policies"]


class Policy(Protocol):
    """What replay asks. A policy that is to know the trace beforehand (an oracle) has ``prepare(trace)`` too."""

    def choose(self, remaining_s: float) -> Decision:
        """What to run when so many seconds are left."""

    def observe(self, decision: Decision, seconds: float) -> None:
        """How long that took."""


@dataclass(frozen=True)
class World:
    """What a policy may be made from.

    Attributes:
        frontier: the points.
        trace: what will be replayed; for oracles, and for a fixed network that is the best in hindsight.
        miss_budget, gamma: as in Selector.
        options: further arguments of Selector.
    """

    frontier: Frontier | Sequence[Point]
    trace: Trace
    miss_budget: float = 0.01
    gamma: float = 0.005
    options: dict[str, Any] | None = None


policies: Registry[Callable[[World], Policy]] = Registry("policy", "list(precut.deadline.policies)")


class Rule:
    """A policy that admits points by some estimate of their time, and promises whatever it admits.

    Args:
        points: in any order.
    """

    def __init__(self, points: Frontier | Sequence[Point]) -> None:
        self.points = sorted(points, key=lambda point: -point.accuracy)
        if not self.points:
            raise PrecutError("a policy needs at least one operating point; got none")
        self.quickest = min(range(len(self.points)), key=lambda place: self.points[place].time("mean"))
        self.number = 0

    def pick(self, remaining_s: float) -> int:
        """The place of the chosen point; -1 where none is thought to fit."""
        raise NotImplementedError

    def choose(self, remaining_s: float) -> Decision:
        """The picked point, promised; else the quickest as the best effort."""
        place = self.pick(remaining_s)
        self.number += 1
        promised = place >= 0
        chosen = place if promised else self.quickest
        return Decision(
            self.points[chosen],
            promised,
            FITS if promised else INFEASIBLE,
            remaining_s,
            number=self.number,
            place=chosen,
        )

    def observe(self, decision: Decision, seconds: float) -> None:
        """Nothing is learnt."""


class MeanTime(Rule):
    """The most accurate point whose *average* profiled time fits (Chai and Kang, Technologies 9(1):20, 2021)."""

    def __init__(self, points: Frontier | Sequence[Point]) -> None:
        super().__init__(points)
        self.means = [point.time("mean") for point in self.points]

    def pick(self, remaining_s: float) -> int:
        return next((place for place, mean in enumerate(self.means) if mean <= remaining_s), -1)


class Fixed(Rule):
    """Always one point, and always a promise.

    Args:
        points: the candidates.
        name: of the one to run.
    """

    def __init__(self, points: Frontier | Sequence[Point], name: str) -> None:
        super().__init__(points)
        names = [point.name for point in self.points]
        if name not in names:
            raise unknown("point", name, names)
        self.place = names.index(name)

    def pick(self, remaining_s: float) -> int:
        return self.place


class LayerSkip(Rule):
    """Depth by feedback: one step down after a late answer, one step up after ``patience`` answers in time.

    The rule of networks that skip layers when they were late and add them when there was time. The steps are the points
    in order of accuracy: give it points that differ in depth alone, or any ladder. It does not look at the time left.
    """

    def __init__(self, points: Frontier | Sequence[Point], patience: int = 10) -> None:
        super().__init__(points)
        self.place = len(self.points) - 1
        self.patience = patience
        self.in_time = 0

    def pick(self, remaining_s: float) -> int:
        return self.place

    def observe(self, decision: Decision, seconds: float) -> None:
        if seconds > decision.remaining_s:
            self.place = min(self.place + 1, len(self.points) - 1)
            self.in_time = 0
            return
        self.in_time += 1
        if self.in_time >= self.patience:
            self.place = max(self.place - 1, 0)
            self.in_time = 0


class Ewma(Rule):
    """The most accurate point whose smoothed slow-down plus four mean deviations fits: the estimator of TCP's
    retransmission timer (RFC 6298, gains 1/8 and 1/4), on times relative to the profiled mean."""

    def __init__(self, points: Frontier | Sequence[Point]) -> None:
        super().__init__(points)
        self.means = [point.time("mean") for point in self.points]
        self.level = 1.0
        self.deviation = 0.125  # half of a quarter: as after a first sample of 1/4 in the RFC, but for a known mean

    def pick(self, remaining_s: float) -> int:
        factor = self.level + 4 * self.deviation
        return next((place for place, mean in enumerate(self.means) if factor * mean <= remaining_s), -1)

    def observe(self, decision: Decision, seconds: float) -> None:
        ratio = seconds / self.means[decision.place]
        self.deviation += (abs(ratio - self.level) - self.deviation) / 4
        self.level += (ratio - self.level) / 8


@policies.register("conformal")
def _conformal(world: World) -> Policy:
    return Selector(world.frontier, world.miss_budget, world.gamma, **(world.options or {}))


@policies.register("static-p99")
def _static(world: World) -> Policy:
    return Selector(world.frontier, world.miss_budget, world.gamma, mode="static")


@policies.register("mean-time")
def _mean_time(world: World) -> Policy:
    return MeanTime(world.frontier)


@policies.register("ewma")
def _ewma(world: World) -> Policy:
    return Ewma(world.frontier)


@policies.register("layer-skip")
def _layer_skip(world: World) -> Policy:
    return LayerSkip(world.frontier)


@policies.register("fixed-best")
def _fixed_best(world: World) -> Policy:
    """The one network that delivers most on this very trace: chosen in hindsight, so stronger than anyone could choose."""
    trace = world.trace
    allowed = {point.name for point in world.frontier}
    in_time = (trace.latency <= (trace.deadline - trace.arrival)[:, None]).mean(axis=0)
    delivered = {
        name: accuracy * float(share)
        for name, accuracy, share in zip(trace.points, trace.accuracies, in_time, strict=True)
        if name in allowed
    }
    return Fixed(world.frontier, max(delivered, key=lambda name: delivered[name]))


@policies.register("smallest")
def _smallest(world: World) -> Policy:
    return Fixed(world.frontier, min(world.frontier, key=lambda point: point.accuracy).name)


@policies.register("largest")
def _largest(world: World) -> Policy:
    return Fixed(world.frontier, max(world.frontier, key=lambda point: point.accuracy).name)
