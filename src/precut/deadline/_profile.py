"""Measuring operating points: interleaved, raw samples kept, with the conditions."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precut._environment import environment
from precut._files import atomic_write
from precut.deadline._document import intact, read_document
from precut.deadline._frontier import Frontier
from precut.deadline._machine import check_machine
from precut.deadline._point import Point
from precut.deadline._quantiles import needed_samples
from precut.deadline._target import Target, served
from precut.deadline._ticker import Ticker
from precut.errors import PrecutError, whole
from precut.measure import energy_counters, measure_energy
from precut.report import Column, Table, byte_size, duration

__all__ = ["Profile", "inputs_of", "profile"]

_FORMAT = "precut-profile-1"
_ENERGY_S = 1.0  # counters tick every millisecond or so


@dataclass(frozen=True)
class Profile:
    """Operating points as measured on one machine.

    Attributes:
        points: with raw samples for every batch size.
        environment: machine, versions, threads.
        rounds: timed calls of each point at each batch size.
        warmup: calls of each before.
        no_energy: why energy was not measured; empty where it was.
    """

    points: tuple[Point, ...]
    environment: Mapping[str, Any]
    rounds: int
    warmup: int
    no_energy: tuple[str, ...] = field(default=())

    def frontier(self, time: str = "p99_ucb", **limits: Any) -> Frontier:
        """The points worth keeping; arguments as of Frontier."""
        return Frontier(self.points, time, environment=self.environment, **limits)

    def table(self) -> Table:
        """Quantiles and their bounds by point and batch size; a dash where there are too few samples."""
        rows = []
        for point in self.points:
            for batch in point.batches:
                row: dict[str, Any] = {"point": point.name, "batch": batch, "n": len(point.samples[batch])}
                row |= {name: _or_none(point, name, batch) for name in ("p50", "p90", "p99", "p99_ucb")}
                row |= {"accuracy": point.accuracy, "energy": point.energy(batch), "memory": point.memory_bytes}
                rows.append(row)
        columns = [
            Column("point"),
            Column("batch"),
            Column("n", "calls"),
            *(Column(name, name, duration, "right") for name in ("p50", "p90", "p99")),
            Column("p99_ucb", "p99 <=", duration, "right"),
            Column("accuracy", "accuracy %", lambda share: f"{100 * share:.2f}", "right"),
            Column("energy", "J", ".3g", "right"),
            Column("memory", format=byte_size, align="right"),
        ]
        where = self.environment
        notes = [
            f"measured, interleaved: {where['cpu']}, {where['cores']} cores, {where['device']}; p99 <=: upper bound at 95 % "
            f"confidence (from {needed_samples(0.99, 0.95)} calls on)"
        ]
        if self.no_energy:
            notes.append(f"energy not measured ({'; '.join(self.no_energy)})")
        return Table(rows, columns, notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """As plain data, raw samples included."""
        return {
            "format": _FORMAT,
            "environment": dict(self.environment),
            "rounds": self.rounds,
            "warmup": self.warmup,
            "no_energy": list(self.no_energy),
            "points": [point.to_dict() for point in self.points],
        }

    def save(self, path: str | Path) -> Path:
        """Writes ``to_dict()`` as JSON."""
        return atomic_write(path, json.dumps(self.to_dict()) + "\n")

    @classmethod
    def load(
        cls,
        path: str | Path,
        runs: Mapping[str, Callable[..., Any]] | None = None,
        *,
        other_machine: bool = False,
    ) -> Profile:
        """The profile in a file.

        Args:
            path: of the JSON file.
            runs: what runs each point, by name.
            other_machine: take a profile that was measured on another machine; its times are then not this machine's.

        Raises:
            PrecutError: no profile, or another machine's.
        """
        path = Path(path)
        data = read_document(path, _FORMAT, "profile", "; precut profile writes one")
        there = data.get("environment") or {}
        if not other_machine:
            check_machine(path, there)
        with intact(path):
            points = tuple(Point.from_dict(entry, (runs or {}).get(entry.get("name", ""))) for entry in data["points"])
            return cls(points, there, data["rounds"], data["warmup"], tuple(data["no_energy"]))


def _or_none(point: Point, name: str, batch: int) -> float | None:
    try:
        return point.time(name, batch)
    except PrecutError:
        return None


def inputs_of(example: torch.Tensor | tuple[torch.Tensor, ...], batch: int) -> tuple[torch.Tensor, ...]:
    """``example`` with ``batch`` examples: repeated, or cut."""
    tensors = example if isinstance(example, tuple) else (example,)
    made = []
    for tensor in tensors:
        times = -(-batch // tensor.shape[0])
        made.append(torch.cat([tensor] * times)[:batch].contiguous())
    return tuple(made)


def profile(
    targets: Iterable[Target],
    example_inputs: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    batches: Sequence[int] = (1,),
    rounds: int = 1000,
    warmup: int = 20,
    device: torch.device | str = "cpu",
    energy: bool = True,
    seed: int = 0,
    conditions: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Profile:
    """Times every target at every batch size, one call each in turn, in a new random order every round: what drifts while
    this runs, drifts for all alike.

    A call's time is what its caller waits: from inputs in the CPU's memory to answers there (see ``served``, by which
    modules are wrapped). Garbage collection stays as it is in service.

    Args:
        targets: what to time; a module's ``run`` is served on ``device``.
        example_inputs: a tensor or a tuple of tensors, batch first; repeated or cut to each batch size.
        batches: batch sizes.
        rounds: timed calls of each. 299 give an upper bound of p99 at 95 % confidence, a few thousand a tight one.
        warmup: calls of each before.
        device: where modules run; also told in the environment.
        energy: measure energy where the machine has counters: a second of calls for each.
        seed: of the orders.
        conditions: what else the times depend on, such as threads of a compiled call; kept in the environment.
        progress: show how it goes, on standard error.

    Raises:
        PrecutError: no targets, or two with one name, or numbers out of range.
    """
    given = list(targets)
    if not given:
        raise PrecutError("there is nothing to profile; pass at least one deadline.Target")
    names = [target.name for target in given]
    for name in names:
        if names.count(name) > 1:
            raise PrecutError(f"two targets are named {name!r}; names must differ")
    sizes = sorted({whole("batch", batch) for batch in batches})
    whole("rounds", rounds)
    whole("warmup", warmup, 0)
    place = torch.device(device)
    runs = [served(target.run, place) if isinstance(target.run, nn.Module) else target.run for target in given]
    work = [(which, size, inputs_of(example_inputs, size)) for which in range(len(given)) for size in sizes]
    seconds: dict[tuple[int, int], list[float]] = {(which, size): [] for which, size, _ in work}
    wait: Callable[[], None] = torch.cuda.synchronize if place.type == "cuda" else lambda: None
    draw = random.Random(seed)
    with Ticker("profiling", warmup + rounds, progress) as ticker:
        for turn in range(-warmup, rounds):
            draw.shuffle(work)
            for which, size, inputs in work:
                wait()
                start = time.perf_counter_ns()
                runs[which](*inputs)
                wait()
                spent = time.perf_counter_ns() - start
                if turn >= 0:
                    seconds[which, size].append(spent * 1e-9)
            ticker.step()
    joules, reasons = _energy(runs, work) if energy else ({}, ("not asked for",))
    points = tuple(
        Point(
            target.name,
            target.accuracy,
            {size: seconds[which, size] for size in sizes},
            runs[which],
            energy_j={size: joules[which, size] for size in sizes} if joules else None,
            memory_bytes=target.memory_bytes,
            correct=target.correct,
        )
        for which, target in enumerate(given)
    )
    return Profile(points, {**environment(place), **(conditions or {})}, rounds, warmup, reasons)


def _energy(
    runs: Sequence[Callable[..., Any]], work: Sequence[tuple[int, int, tuple[torch.Tensor, ...]]]
) -> tuple[dict[tuple[int, int], float], tuple[str, ...]]:
    """Joules of a call, idle power included, by (target, batch size); or why they are not known."""
    counters, reasons = energy_counters()
    if not counters:
        return {}, reasons
    found = {}
    for which, size, inputs in work:
        calls = 0
        began = time.perf_counter()
        with measure_energy(counters) as reading:
            while time.perf_counter() - began < _ENERGY_S:
                runs[which](*inputs)
                calls += 1
        assert reading.joules is not None
        found[which, size] = reading.joules / calls
    return found, ()
