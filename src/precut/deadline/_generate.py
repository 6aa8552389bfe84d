"""Made traces: known laws of arrival and load, the same for every policy, bit-exact by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from precut._registry import Registry
from precut.deadline._point import Point
from precut.deadline._trace import Trace, _check_range
from precut.errors import PrecutError, whole

__all__ = ["arrivals", "loads", "make_trace"]

# (generator, number of requests, mean gap in seconds) -> arrival times
Arrivals = Callable[[np.random.Generator, int, float], np.ndarray]
# (generator, arrival times, slow-down under load, mean seconds of a phase) -> the slow-down at each arrival
Load = Callable[[np.random.Generator, np.ndarray, float, float], np.ndarray]

arrivals: Registry[Arrivals] = Registry("arrival law", "list(precut.deadline.arrivals)")
loads: Registry[Load] = Registry("load", "list(precut.deadline.loads)")


@arrivals.register("periodic")
def _periodic(draw: np.random.Generator, n: int, gap_s: float) -> np.ndarray:
    """One request every gap."""
    return np.arange(n) * gap_s


@arrivals.register("poisson")
def _poisson(draw: np.random.Generator, n: int, gap_s: float) -> np.ndarray:
    """Independent requests: exponential gaps."""
    return np.cumsum(draw.exponential(gap_s, n))


@loads.register("steady")
def _steady(draw: np.random.Generator, times: np.ndarray, slowdown: float, phase_s: float) -> np.ndarray:
    """As profiled, throughout."""
    return np.ones(len(times))


@loads.register("square")
def _square(draw: np.random.Generator, times: np.ndarray, slowdown: float, phase_s: float) -> np.ndarray:
    """Quiet and loaded phases of one length, in turns."""
    return np.where(np.floor(times / phase_s) % 2 == 1, slowdown, 1.0)


@loads.register("markov")
def _markov(draw: np.random.Generator, times: np.ndarray, slowdown: float, phase_s: float) -> np.ndarray:
    """Bursts: quiet and loaded phases of exponential lengths, the loaded ones half as long on average."""
    ends: list[float] = []
    now = 0.0
    while now <= times[-1]:
        now += draw.exponential(phase_s / 2 if len(ends) % 2 else phase_s)
        ends.append(now)
    return np.where(np.searchsorted(ends, times, side="right") % 2 == 1, slowdown, 1.0)


@loads.register("ramp")
def _ramp(draw: np.random.Generator, times: np.ndarray, slowdown: float, phase_s: float) -> np.ndarray:
    """From the profiled speed evenly to the slow-down and back, over two phases."""
    turn = (times / phase_s) % 2
    return 1 + (slowdown - 1) * np.minimum(turn, 2 - turn)


def make_trace(
    points: Sequence[Point],
    n: int,
    *,
    deadlines_s: tuple[float, float],
    load: str = "steady",
    arrival: str = "periodic",
    gap_s: float = 0.05,
    slowdown: float = 2.5,
    phase_s: float = 5.0,
    batch: int = 1,
    seed: int = 0,
) -> Trace:
    """A trace whose latencies are drawn from the points' samples, times a slow-down that changes with time.

    Args:
        points: whose samples at ``batch`` are drawn from.
        n: requests.
        deadlines_s: each request's deadline is uniform between these seconds after its arrival.
        load: "steady", "square", "markov" or "ramp".
        arrival: "periodic" or "poisson".
        gap_s: mean seconds between arrivals.
        slowdown: factor of all times under load.
        phase_s: (mean) seconds of a phase of the load.
        seed: of all draws.

    Raises:
        PrecutError: an unknown load or arrival law, or numbers outside their ranges.
    """
    whole("n", n)
    _check_range(*deadlines_s)
    for name, value in (("gap_s", gap_s), ("slowdown", slowdown), ("phase_s", phase_s)):
        if not 0 < value < math.inf:
            raise PrecutError(f"{name} must be a number above 0; got {value!r}")
    # Independent streams: another load leaves arrivals, deadlines and draws of the latencies as they were.
    for_arrival, for_load, for_deadline, for_latency = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(4))
    times = arrivals[arrival](for_arrival, n, gap_s)
    factor = loads[load](for_load, times, slowdown, phase_s)
    drawn = [for_latency.choice(np.asarray(point.samples[point.table_batch(batch)]), n) for point in points]
    return Trace(
        tuple(point.name for point in points),
        tuple(point.accuracy for point in points),
        times,
        times + for_deadline.uniform(*deadlines_s, n),
        np.stack(drawn, axis=1) * factor[:, None],
        {
            "load": load,
            "arrival": arrival,
            "gap_s": gap_s,
            "slowdown": slowdown,
            "phase_s": phase_s,
            "batch": batch,
            "deadlines_s": list(deadlines_s),
            "seed": seed,
            "made": "drawn from samples",
        },
    )
