"""Replaying a trace: every policy, and the oracles, in the same world."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from precut.deadline._decision import INFEASIBLE, PROBE, WITHHELD
from precut.deadline._frontier import Frontier
from precut.deadline._metrics import Outcome, Replay
from precut.deadline._oracles import Clairvoyant
from precut.deadline._point import Point
from precut.deadline._policies import Policy, World, policies
from precut.deadline._trace import Trace
from precut.errors import PrecutError

__all__ = ["replay"]


def replay(
    trace: Trace,
    frontier: Frontier | Sequence[Point],
    run: Sequence[str] | Mapping[str, Policy] | None = None,
    *,
    miss_budget: float = 0.01,
    gamma: float = 0.005,
    options: dict[str, Any] | None = None,
) -> Replay:
    """What each policy would have delivered on a trace.

    One server works on one request at a time, without interrupting it, earliest deadline first among those that have
    arrived. A policy sees the seconds that are left when its turn comes, and afterwards the latency of the point that it
    chose; the latencies of the others it never sees. Everything but the measured overhead is a function of the trace and
    the policies alone, bit for bit.

    Args:
        trace: with the latencies of all points of ``frontier``.
        frontier: the points that may be chosen, with the profile that policies start from.
        run: names of registered policies, or your own policy objects by name; by default every registered policy.
        miss_budget, gamma, options: what the registered policies are made with; ``options`` go to Selector.

    Raises:
        PrecutError: a point of the frontier that the trace lacks, or an unknown policy.
    """
    for point in frontier:
        if point.name not in trace.points:
            raise PrecutError(
                f"the trace has no latencies of point {point.name!r}; it has {', '.join(trace.points)}: record it with the "
                "points of this profile"
            )
    world = World(_at_batch(frontier, trace), trace, miss_budget, gamma, options)
    chosen = list(policies) if run is None else run
    named: Mapping[str, Policy] = (
        chosen if isinstance(chosen, Mapping) else {name: policies[name](world) for name in chosen}
    )
    if not named:
        raise PrecutError("replay needs at least one policy; got none")
    best = _serve(trace, Clairvoyant(world))
    return Replay(trace, {name: _serve(trace, policy) for name, policy in named.items()}, best)


def _at_batch(frontier: Frontier | Sequence[Point], trace: Trace) -> Frontier | Sequence[Point]:
    """The points with the times of the batch that the trace was recorded at: what policies ask for is a call's time."""
    if all(len(point.samples) == 1 for point in frontier):
        return frontier
    batch = int(trace.meta.get("batch", frontier.batch if isinstance(frontier, Frontier) else 1))
    points = [Point(p.name, p.accuracy, p.samples[p.table_batch(batch)]) for p in frontier]
    return Frontier(points, frontier.time) if isinstance(frontier, Frontier) else points


def _serve(trace: Trace, policy: Policy) -> Outcome:
    n = len(trace)
    arrival, deadline = trace.arrival.tolist(), trace.deadline.tolist()
    latency = trace.latency.tolist()
    column = {name: k for k, name in enumerate(trace.points)}
    for_request = getattr(policy, "choose_request", None)
    point = np.full(n, -1)
    promised = np.zeros(n, dtype=bool)
    reasons = np.zeros(n, dtype=np.int8)
    start = np.zeros(n)
    finish = np.full(n, np.inf)
    overhead = np.zeros(n, dtype=np.int64)
    order = np.zeros(n, dtype=np.int64)
    waiting: list[tuple[float, int]] = []
    now = 0.0
    arrived = served = 0
    while served < n:
        if not waiting:
            now = max(now, arrival[arrived])
        while arrived < n and arrival[arrived] <= now:
            heapq.heappush(waiting, (deadline[arrived], arrived))
            arrived += 1
        _, request = heapq.heappop(waiting)
        left = deadline[request] - now
        before = perf_counter_ns()
        decision = policy.choose(left) if for_request is None else for_request(request, left)
        between = perf_counter_ns()
        start[request] = now
        promised[request] = decision.promised
        reasons[request] = _REASONS.get(decision.reason, 0)
        order[served] = request
        served += 1
        spent = between - before
        if decision.point is not None:
            k = column[decision.point.name]
            point[request] = k
            seconds = latency[request][k]
            now += seconds
            finish[request] = now
            before = perf_counter_ns()
            policy.observe(decision, seconds)
            spent += perf_counter_ns() - before
        overhead[request] = spent
    return Outcome(point, promised, reasons, start, finish, overhead, order)


_REASONS = {WITHHELD: 1, INFEASIBLE: 2, PROBE: 3}
