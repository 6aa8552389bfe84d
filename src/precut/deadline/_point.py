"""An operating point: one way to run a network here, with its measured times and its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from precut.deadline._quantiles import needed_samples, quantile, upper_bound
from precut.errors import PrecutError, real, unknown, whole

__all__ = ["Point", "samples_for", "statistic"]

_STATISTICS = ("mean", "p50", "p90", "p99", "p50_ucb", "p90_ucb", "p99_ucb", "max")


def statistic(samples: Sequence[float], name: str) -> float:
    """``samples`` as one number: "mean", "max", "p50", "p90", "p99", or an upper bound of these at 95 % confidence
    ("p99_ucb").

    Raises:
        PrecutError: for another name, or with fewer samples than the number takes.
    """
    if name == "mean":
        return math.fsum(samples) / len(samples)
    if name == "max":
        return max(samples)
    if name not in _STATISTICS:
        raise unknown("time statistic", name, _STATISTICS)
    share = int(name[1:3]) / 100
    return upper_bound(samples, share) if name.endswith("_ucb") else quantile(samples, share)


def samples_for(name: str) -> int:
    """The fewest samples that the time statistic takes."""
    if name not in _STATISTICS:
        raise unknown("time statistic", name, _STATISTICS)
    if name in ("mean", "max"):
        return 1
    return needed_samples(int(name[1:3]) / 100, 0.95 if name.endswith("_ucb") else None)


class Point:
    """One operating point.

    Args:
        name: what reports and traces call it.
        accuracy: share of right answers, from 0 to 1.
        samples: measured seconds of single calls; for several batch sizes a mapping from batch size to seconds of a
            call with that many examples.
        run: computes an answer from inputs; needed by the Executor alone.
        energy_j: joules of one call by batch size (or of a call with one example); None where nothing measures it.
        memory_bytes: what holding the point ready takes.
        correct: for each test image whether the point was right, all points in the same order; for paired tests.

    Raises:
        PrecutError: an accuracy outside 0..1, or times that are not finite numbers above 0.
    """

    __slots__ = ("_cache", "accuracy", "correct", "energy_j", "memory_bytes", "name", "run", "samples")

    def __init__(
        self,
        name: str,
        accuracy: float,
        samples: Sequence[float] | Mapping[int, Sequence[float]],
        run: Callable[..., Any] | None = None,
        *,
        energy_j: float | Mapping[int, float] | None = None,
        memory_bytes: int | None = None,
        correct: Sequence[bool] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise PrecutError(f"a point's name must be a non-empty string; got {name!r}")
        accuracy = real(f"point {name!r}: accuracy", accuracy, 0, 1, what="share")
        if run is not None and not callable(run):
            raise PrecutError(f"point {name!r}: run must be callable; got {type(run).__name__}")
        self.name = name
        self.accuracy = accuracy
        self.run = run
        self.samples = _by_batch(name, samples)
        self.energy_j: dict[int, float] = (
            {} if energy_j is None else _energies(name, energy_j) if isinstance(energy_j, Mapping) else {1: energy_j}
        )
        self.memory_bytes = memory_bytes
        self.correct = None if correct is None else bytes(map(bool, correct))
        self._cache: dict[tuple[str, int], float] = {}

    def __repr__(self) -> str:
        sizes = ", ".join(f"batch {batch}: {len(times)}" for batch, times in self.samples.items())
        return f"Point({self.name!r}, accuracy {self.accuracy:.4f}, samples {sizes})"

    @property
    def batches(self) -> list[int]:
        """The batch sizes that were measured, ascending."""
        return list(self.samples)

    def table_batch(self, batch: int) -> int:
        """The smallest measured batch size of at least ``batch``: a part-filled batch costs at most a full one.

        Raises:
            PrecutError: beyond the largest.
        """
        for size in self.samples:
            if size >= batch:
                return size
        raise PrecutError(
            f"point {self.name!r} was not measured at batch {batch}; its largest is {self.batches[-1]}: profile it with "
            f"batches=(..., {batch})"
        )

    def time(self, name: str = "p99_ucb", batch: int = 1) -> float:
        """Seconds of a call with ``batch`` examples, as the statistic ``name``; see :func:`statistic`.

        Raises:
            PrecutError: an unknown statistic, a batch beyond the measured ones, or too few samples.
        """
        if name not in _STATISTICS:
            raise unknown("time statistic", name, _STATISTICS)
        size = self.table_batch(batch)
        found = self._cache.get((name, size))
        if found is None:
            try:
                found = statistic(self.samples[size], name)
            except PrecutError as error:
                raise PrecutError(f"point {self.name!r}, batch {size}: {error}") from None
            self._cache[name, size] = found
        return found

    def energy(self, batch: int = 1) -> float | None:
        """Joules of a call with ``batch`` examples, None where it was not measured."""
        return next((joules for size, joules in sorted(self.energy_j.items()) if size >= batch), None)

    def enough_for(self, q: float, confidence: float = 0.95) -> bool:
        """Whether every batch size has the samples that an upper bound of the ``q`` quantile takes."""
        return all(len(times) >= needed_samples(q, confidence) for times in self.samples.values())

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without ``run``; times in whole nanoseconds."""
        return {
            "name": self.name,
            "accuracy": self.accuracy,
            "samples_ns": {str(size): [round(t * 1e9) for t in times] for size, times in self.samples.items()},
            "energy_j": {str(size): joules for size, joules in self.energy_j.items()} or None,
            "memory_bytes": self.memory_bytes,
            "correct": None if self.correct is None else "".join("01"[right] for right in self.correct),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], run: Callable[..., Any] | None = None) -> Point:
        """A point from ``to_dict()``'s data, with what runs it."""
        try:
            correct = data.get("correct")
            return cls(
                data["name"],
                data["accuracy"],
                {int(size): [t * 1e-9 for t in times] for size, times in data["samples_ns"].items()},
                run,
                energy_j=None
                if data.get("energy_j") is None
                else {int(size): joules for size, joules in data["energy_j"].items()},
                memory_bytes=data.get("memory_bytes"),
                correct=None if correct is None else [mark == "1" for mark in correct],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PrecutError(f"this is no saved operating point: {type(error).__name__} {error}") from None


def _by_batch(name: str, samples: Any) -> dict[int, tuple[float, ...]]:
    table = samples if isinstance(samples, Mapping) else {1: samples}
    found: dict[int, tuple[float, ...]] = {}
    for size, times in sorted((whole(f"point {name!r}: each batch size", key), table[key]) for key in table):
        try:
            times = tuple(float(t) for t in (times.tolist() if hasattr(times, "tolist") else times))
        except (TypeError, ValueError):
            raise PrecutError(
                f"point {name!r}, batch {size}: samples are a sequence of seconds; got {times!r:.60}"
            ) from None
        if not times:
            raise PrecutError(f"point {name!r} has no samples at batch {size}; measure it, or see deadline.profile")
        for t in times:
            if not 0 < t < math.inf:
                raise PrecutError(f"point {name!r}, batch {size}: times are finite seconds above 0; got {t!r}")
        found[size] = times
    if not found:
        raise PrecutError(f"point {name!r} has no samples; measure it, or see deadline.profile")
    return found


def _energies(name: str, table: Mapping[int, float]) -> dict[int, float]:
    return {
        size: real(f"point {name!r}, batch {size}: energy", joules, 0, finite=True, what="number of joules")
        for size, joules in sorted(table.items())
    }
