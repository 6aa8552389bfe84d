"""Policies that know what nobody can: each request's latencies, or the law they are drawn from."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from precut.deadline._decision import FITS, INFEASIBLE, Decision
from precut.deadline._policies import Policy, Rule, World, policies
from precut.errors import PrecutError

__all__ = ["Clairvoyant", "Distribution", "best_mixture"]


class Clairvoyant(Rule):
    """Knows every request's latencies: the most accurate point that *is* in time; nothing where none is."""

    def __init__(self, world: World) -> None:
        super().__init__(world.frontier)
        columns = [world.trace.points.index(point.name) for point in self.points]
        self.latency = world.trace.latency[:, columns].tolist()

    def choose_request(self, request: int, remaining_s: float) -> Decision:
        """The choice for the trace's request of that number."""
        for place, seconds in enumerate(self.latency[request]):
            if seconds <= remaining_s:
                return Decision(self.points[place], True, FITS, remaining_s, seconds, number=request, place=place)
        return Decision(None, False, INFEASIBLE, remaining_s, number=request)


class Distribution(Rule):
    """Knows each point's latency law on this trace, not the single draws: the best such policy under the miss budget.

    A request is promised where some point keeps its deadline with probability 1 - miss_budget at least. Among policies
    that break at most a share miss_budget of these promises on average, this one delivers the most accuracy: a linear
    programme (:func:`best_mixture`), here by its multiplier. Other requests run what delivers most, without a promise.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world.frontier)
        trace = world.trace
        columns = [trace.points.index(point.name) for point in self.points]
        self.sorted = np.sort(trace.latency[:, columns], axis=0)
        self.accuracy = np.array([point.accuracy for point in self.points])
        self.budget = world.miss_budget
        within = self.law(trace.deadline - trace.arrival)
        promised = within.max(axis=1) >= 1 - self.budget
        self.price = best_mixture(self.accuracy, within[promised], self.budget)[1] if promised.any() else 0.0

    def law(self, remaining_s: np.ndarray) -> np.ndarray:
        """P(latency <= remaining) by point: shape (requests, points)."""
        counts = [np.searchsorted(column, remaining_s, side="right") for column in self.sorted.T]
        return np.stack(counts, axis=-1) / len(self.sorted)

    def choose_request(self, request: int, remaining_s: float) -> Decision:
        """The choice for a request; its number is not used but for the record."""
        within = self.law(np.asarray(remaining_s))
        promised = bool(within.max() >= 1 - self.budget)
        worth = self.accuracy * within - (self.price * (1 - within) if promised else 0.0)
        place = int(worth.argmax())
        return Decision(
            self.points[place], promised, FITS if promised else INFEASIBLE, remaining_s, number=request, place=place
        )


def best_mixture(accuracy: np.ndarray, within: np.ndarray, budget: float) -> tuple[float, float, np.ndarray]:
    """The most accuracy that can be delivered on average while at most a share ``budget`` of answers is late.

    maximise sum_ik x_ik accuracy_k within_ik  subject to  sum_k x_ik = 1,  sum_ik x_ik (1 - within_ik) <= budget n,
    x >= 0. Each request moves along the concave hull of its (late, delivered) pairs; the steps are taken by their slope
    until the budget is spent, the last one in part. So at most one request mixes two points.

    Args:
        accuracy: (points,).
        within: (requests, points), probabilities of being in time.
        budget: share of late answers.

    Returns:
        The accuracy delivered on average, the multiplier (accuracy per late answer at the margin), and x (requests,
        points).

    Raises:
        PrecutError: even the points that are surest are late more often than the budget allows.
    """
    n, k = within.shape
    late, delivered = 1 - within, accuracy * within
    x = np.zeros((n, k))
    left = budget * n
    steps: list[tuple[float, float, int, int, int]] = []
    for request in range(n):
        hull = _hull(late[request], delivered[request])
        x[request, hull[0]] = 1
        left -= late[request, hull[0]]
        for a, b in pairwise(hull):
            cost = late[request, b] - late[request, a]
            steps.append(((delivered[request, b] - delivered[request, a]) / cost, cost, request, a, b))
    if left < -1e-9 * max(1, n):
        raise PrecutError(
            f"even the surest points are late in {100 * (budget - left / n):.2f} % of requests; the budget is "
            f"{100 * budget:g} %"
        )
    price = 0.0
    for slope, cost, request, a, b in sorted(steps, key=lambda step: -step[0]):
        share = min(1.0, max(left, 0.0) / cost)
        x[request, a] -= share
        x[request, b] += share
        left -= share * cost
        if share < 1:
            price = slope
            break
    return float((x * delivered).sum() / n), price, x


def _hull(late: np.ndarray, delivered: np.ndarray) -> list[int]:
    """Points on the rising part of the upper concave hull, from the surest on."""
    order = sorted(range(len(late)), key=lambda point: (late[point], -delivered[point]))
    hull: list[int] = []
    for point in order:
        if hull and (delivered[point] <= delivered[hull[-1]] or late[point] <= late[hull[-1]]):
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1], late, delivered) <= _slope(hull[-1], point, late, delivered):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: int, b: int, late: Any, delivered: Any) -> float:
    return float((delivered[b] - delivered[a]) / (late[b] - late[a]))


@policies.register("law-oracle")
def _distribution(world: World) -> Policy:
    return Distribution(world)


@policies.register("clairvoyant")
def _clairvoyant(world: World) -> Policy:
    return Clairvoyant(world)
