"""Which of several is faster: timed in turns, judged by pairs, with an interval."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precut._environment import environment
from precut.errors import PrecutError, real, unknown, whole
from precut.measure._inputs import as_inputs, batch_of
from precut.measure._latency import device_of, prepared, ready, thread_text, time_calls
from precut.report import Column, Table, duration

__all__ = ["Comparison", "Ratio", "compare_latency", "paired_ratio"]

_CLAIM_ROUNDS = 30  # fewer rounds make no claim
_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline: the ratio of medians over rounds, with its 90 % bootstrap interval.

    ``low`` is what may be claimed.
    """

    ratio: float
    low: float
    high: float


def paired_ratio(baseline: list[float], other: list[float], seed: int = 0) -> Ratio:
    """median(baseline) / median(other), and the 5th and 95th percentile of it over resampled rounds.

    Args:
        baseline, other: one time a round; the i-th of both are from the same round and are drawn together, so that what
            slows a whole round down does not widen the interval.
        seed: of the resampling.
    """
    if len(baseline) != len(other) or not baseline:
        raise PrecutError(f"paired_ratio needs two equally long lists; got {len(baseline)} and {len(other)} times")
    pairs = np.array([baseline, other], dtype=np.float64)
    draws = np.random.default_rng(seed).integers(pairs.shape[1], size=(_RESAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, draws], axis=2)
    low, high = np.quantile(medians[0] / medians[1], [0.05, 0.95])
    first, second = np.median(pairs, axis=1)
    return Ratio(float(first / second), float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Times of several callables, taken in turns; ``str()`` is a table.

    Attributes:
        seconds: name to one time a round, the median of that round's calls.
        baseline: the name that ratios are against.
        ratios: name to Ratio, for all but the baseline.
        batch, threads, environment: the conditions.
    """

    seconds: dict[str, list[float]]
    baseline: str
    ratios: dict[str, Ratio]
    batch: int
    threads: int
    environment: dict[str, Any]

    @property
    def rounds(self) -> int:
        """How many rounds there were."""
        return len(self.seconds[self.baseline])

    @property
    def is_claim(self) -> bool:
        """Whether there were enough rounds (30) to claim the interval's lower end; a second run should agree."""
        return self.rounds >= _CLAIM_ROUNDS

    def table(self) -> Table:
        """One row for each callable."""
        rows = []
        for name, seconds in self.seconds.items():
            ratio = self.ratios.get(name)
            rows.append(
                {
                    "name": name,
                    "median": float(np.median(seconds)),
                    "min": min(seconds),
                    "speedup": ratio.ratio if ratio else 1.0,
                    "low": ratio.low if ratio else None,
                    "high": ratio.high if ratio else None,
                }
            )
        times = Column("median", format=duration, align="right"), Column("min", format=duration, align="right")
        bounds = Column("low", "90 % low", ".3f", "right"), Column("high", "90 % high", ".3f", "right")
        columns = [Column("name", align="left"), *times, Column("speedup", format=".3f", align="right"), *bounds]
        where = self.environment
        notes = [
            f"measured: speedup over {self.baseline!r}, {self.rounds} interleaved rounds, batch {self.batch}, "
            f"{thread_text(self.threads)}, {where['device']}, {where['cpu']}, torch {where['versions']['torch']}"
        ]
        if not self.is_claim:
            notes.append(f"fewer than {_CLAIM_ROUNDS} rounds: no claim")
        return Table(rows, columns, notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "seconds": self.seconds,
            "baseline": self.baseline,
            "ratios": {name: vars(ratio) for name, ratio in self.ratios.items()},
            **{key: getattr(self, key) for key in ("rounds", "is_claim", "batch", "threads", "environment")},
        }

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def compare_latency(
    rivals: Mapping[str, Callable[..., Any]],
    example_inputs: Any,
    threads: int | None = None,
    rounds: int = 30,
    calls: int = 1,
    min_time: float = 0.02,
    warmup: int = 5,
    baseline: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Times several callables in turns, so that what the machine does meanwhile meets all alike.

    In every round each rival, in random order, is called until it had ``calls`` calls and ``min_time`` seconds; the
    round's time is the median of those calls. The speed-up is the ratio of the medians over rounds, its interval a
    bootstrap over rounds.

    All run in this process. A rival with worker threads of its own that spin while idle would slow the others: give
    such frameworks processes of their own, stopped between rounds.

    Args:
        rivals: name to an ``nn.Module`` (timed in eval mode) or any callable.
        example_inputs: a tensor or a tuple of tensors, the same for all.
        threads: of torch; None leaves them.
        rounds: at least 30 for a claim.
        calls, min_time: of each rival in a round, at least.
        warmup: calls of each rival before the first round.
        baseline: the name that ratios are against; by default the first.
        seed: of the order in the rounds, and of the bootstrap.
    """
    inputs = as_inputs(example_inputs)
    if not isinstance(rivals, Mapping) or len(rivals) < 2:
        raise PrecutError(f"compare_latency takes {{name: callable}} with at least two entries; got {rivals!r:.80}")
    first = next(iter(rivals)) if baseline is None else baseline
    if first not in rivals:
        raise unknown("baseline", first, rivals)
    whole("rounds", rounds)
    whole("calls", calls)
    whole("warmup", warmup, 0)
    real("min_time", min_time, 0, finite=True, what="number of seconds")
    devices = {name: device_of(rival, inputs) for name, rival in rivals.items()}
    order = list(rivals)
    shuffle = random.Random(seed).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    with contextlib.ExitStack() as stack:
        targets = {name: stack.enter_context(ready(rival, "compare_latency")) for name, rival in rivals.items()}
        used = stack.enter_context(prepared(threads))
        for target in targets.values():
            for _ in range(warmup):
                target(*inputs)
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                times = time_calls(targets[name], inputs, devices[name], calls, min_time)
                seconds[name].append(float(np.median(times)))
        where = environment(devices[first])
    ratios = {name: paired_ratio(seconds[first], times, seed) for name, times in seconds.items() if name != first}
    return Comparison(seconds, first, ratios, batch_of(inputs), used, where)
