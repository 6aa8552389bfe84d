"""Recording a trace from real runs under real load."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import torch

from precut._environment import environment
from precut.deadline._point import Point
from precut.deadline._profile import inputs_of
from precut.deadline._quantiles import quantile
from precut.deadline._stress import Stressors
from precut.deadline._ticker import Ticker
from precut.deadline._trace import Trace
from precut.errors import PrecutError, unknown, whole

__all__ = ["LOADS", "record"]

LOADS = ("idle", "stress", "bursts")


def record(
    points: Sequence[Point],
    example_inputs: torch.Tensor | tuple[torch.Tensor, ...],
    n: int,
    *,
    load: str = "idle",
    deadlines_s: tuple[float, float] | None = None,
    gap_s: float = 0.0,
    batch: int = 1,
    stressors: int = 1,
    phase_s: tuple[float, float] = (4.0, 2.0),
    warmup: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> Trace:
    """Runs *every* point for each of ``n`` requests, in a random order, while other processes load the machine.

    A request's latencies are measured one after the other within some milliseconds, under the load of that moment.

    Args:
        points: with ``run``.
        example_inputs: as of ``profile``.
        n: requests.
        load: "idle"; "stress": the stressors run throughout; "bursts": they rest and run in turns of exponential
            lengths.
        deadlines_s: each request's deadline is uniform between these seconds after its arrival; by default from 1.2 times
            the quickest point's p99 in this recording to 1.5 times the slowest one's.
        gap_s: seconds between the starts of requests, at least.
        batch: examples of a call.
        stressors: processes, each of which takes a core.
        phase_s: mean seconds of rest, and of a burst.
        warmup: requests that run before, unrecorded, under the same load.
        seed: of orders, phases and deadlines. (The latencies are measured; no seed gives them again.)
        progress: show how it goes, on standard error.

    Raises:
        PrecutError: an unknown load, or a point that cannot be run.
    """
    if load not in LOADS:
        raise unknown("load", load, LOADS)
    whole("n", n)
    for point in points:
        if point.run is None:
            raise PrecutError(f"point {point.name!r} cannot be run: it has no callable (Point(..., run=...))")
    inputs = inputs_of(example_inputs, batch)
    draw = random.Random(seed)
    order = list(range(len(points)))
    arrival = np.zeros(n)
    latency = np.zeros((n, len(points)))
    phases: list[tuple[float, bool]] = []
    with Stressors(0 if load == "idle" else stressors) as stress, Ticker(f"recording, {load}", n, progress) as ticker:
        stress.switch(load == "stress")
        began = last = time.perf_counter()
        change = began + draw.expovariate(1 / phase_s[0]) if load == "bursts" else float("inf")
        for request in range(-warmup, n):
            if request == 0:
                shift = time.perf_counter() - began
                began, change = began + shift, change + shift
                phases.append((0.0, stress.on))
            # From the last start, not by a timetable: after a slow request nothing is to be caught up with.
            time.sleep(max(0.0, last + gap_s - time.perf_counter()))
            last = time.perf_counter()
            if time.perf_counter() >= change:
                stress.switch(not stress.on)
                phases.append((time.perf_counter() - began, stress.on))
                change = time.perf_counter() + draw.expovariate(1 / phase_s[stress.on])
            draw.shuffle(order)
            if request >= 0:
                arrival[request] = last - began
            for which in order:
                run = points[which].run
                assert run is not None
                start = time.perf_counter_ns()
                run(*inputs)
                spent = time.perf_counter_ns() - start
                if request >= 0:
                    latency[request, which] = spent * 1e-9
            if request >= 0:
                ticker.step()
    if deadlines_s is None:
        p99 = [quantile(column.tolist(), 0.99) for column in latency.T]
        deadlines_s = (1.2 * min(p99), 1.5 * max(p99))
    where = environment()
    meta = {
        "load": load,
        "stressors": 0 if load == "idle" else stressors,
        "phases": [[round(seconds, 6), on] for seconds, on in phases],
        "batch": batch,
        "gap_s": gap_s,
        "seed": seed,
        "environment": {key: where[key] for key in ("cpu", "cores", "versions", "virtual")},
        "made": "recorded",
    }
    names = tuple(point.name for point in points)
    accuracies = tuple(point.accuracy for point in points)
    return Trace(names, accuracies, arrival, arrival + 1.0, latency, meta).with_deadlines(*deadlines_s, seed=seed)
