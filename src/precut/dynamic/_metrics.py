"""What a subnet costs, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut.dynamic._data import placed
from precut.engine import compile as compile_model
from precut.errors import PrecutError, unknown
from precut.measure import latency, measure_energy, summary

if TYPE_CHECKING:
    from precut.dynamic._net import DynamicNet
    from precut.dynamic._point import Point

__all__ = ["MEASURED", "METRICS", "cost", "example_of"]

MEASURED = ("latency", "energy")
METRICS = ("macs", "params", *MEASURED)
_ENERGY_CALLS_SECONDS = 1.0


def example_of(dyn: DynamicNet, point: Point) -> tuple[torch.Tensor, ...]:
    """Zeros of the shapes that the subnet takes, with the example's batch."""
    made = []
    for value in dyn.graph.inputs:
        shape = value.shape if point.resolution is None else (*value.shape[:2], point.resolution, point.resolution)
        made.append(torch.zeros(shape, dtype=value.dtype))
    return tuple(placed(dyn.model, made))


def _own_cost(given: Any) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise PrecutError(f"metric must give the network's cost, a finite number from 0 up; got {given!r:.60}")
    return value


def cost(dyn: DynamicNet, point: Point, metric: str | Callable[[nn.Module], float], threads: int | None = 1) -> float:
    """A subnet's cost: "macs" (of one example) and "params" are counted; "latency" (seconds, median of a call with the
    example's batch, compiled by ``precut.compile``) and "energy" (joules of that) are measured; or your function of the
    extracted network.

    Raises:
        PrecutError: an unknown metric, or energy on a machine without counters.
    """
    net = dyn.extract(point, uncalibrated=True)
    if callable(metric):
        return _own_cost(metric(net))
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    example = example_of(dyn, point)
    if metric not in MEASURED:
        counts = summary(net, example)
        return float(counts.macs if metric == "macs" else counts.params)
    inputs = tuple(item.float().cpu() for item in example)
    fast: Any = compile_model(net.float().cpu(), inputs, threads=threads)
    if metric == "latency":
        return latency(fast, inputs, threads=threads, warmup=5, repeats=30, min_time=0.2).median
    with measure_energy() as energy:
        calls = latency(fast, inputs, threads=threads, warmup=0, repeats=1, min_time=_ENERGY_CALLS_SECONDS).n
    if energy.joules is None:
        raise PrecutError(f"metric='energy' cannot be measured here: {energy}; choose 'latency' or 'macs'")
    return energy.joules / calls
