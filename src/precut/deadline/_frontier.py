"""The operating points worth keeping: more time always buys more accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from precut._files import atomic_write
from precut.deadline._document import intact, read_document
from precut.deadline._machine import check_machine
from precut.deadline._mcnemar import mcnemar
from precut.deadline._point import Point
from precut.errors import PrecutError, real, unknown, whole
from precut.report import Column, Table, byte_size, duration, pareto_front, pareto_plot

__all__ = ["Frontier"]

_FORMAT = "precut-frontier-1"


class Frontier:
    """The points that no other beats in time and accuracy, quickest first: strictly more accurate with more time.

    Of equal points the first given is kept. With a tolerance the set is thinned to the fewest points such that whatever
    the time, the best kept point is at most that much less accurate than the best of all: ``loss`` is the largest loss
    that really occurs, and the quickest point always stays, so nothing that was feasible becomes infeasible.

    Args:
        points: the candidates.
        time: what counts as a point's time: "p99_ucb" (an upper bound of p99 at 95 % confidence), "p99", "mean", ...
        batch: the batch size whose times count.
        min_accuracy: leave out points below it.
        tolerance: accuracy that may be lost by thinning (a share: 0.002 is 0.2 points).
        max_points: thin to at most so many points, with the least loss that allows.
        max_bytes: thin until the kept points' memory is at most this, with the least loss that allows.
        environment: where the points were measured, as a Profile has it; a file then knows its machine.

    Attributes:
        points: the kept ones, quickest first.
        times: their seconds.
        loss: accuracy lost to thinning, at most, at any time.
        dropped: (name, why) of every point that was not kept.

    Raises:
        PrecutError: no points, two with one name, too few samples for ``time``, or limits that no set keeps.
    """

    def __init__(
        self,
        points: Iterable[Point],
        time: str = "p99_ucb",
        *,
        batch: int = 1,
        min_accuracy: float | None = None,
        tolerance: float = 0.0,
        max_points: int | None = None,
        max_bytes: int | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        given = list(points)
        _check(given, tolerance)
        self.time = time
        self.batch = whole("batch", batch)
        self.environment = None if environment is None else dict(environment)
        self.dropped: list[tuple[str, str]] = []
        able = [point for point in given if min_accuracy is None or point.accuracy >= min_accuracy]
        self.dropped += [(p.name, f"accuracy {p.accuracy:.4f} < {min_accuracy}") for p in given if p not in able]
        if not able:
            best = max(point.accuracy for point in given)
            raise PrecutError(
                f"no point has an accuracy of at least {min_accuracy}; the best of {len(given)} has {best:.4f}"
            )
        chain = self._undominated(able)
        kept = self._thinned(chain, tolerance, max_points, max_bytes)
        self.loss = _loss([point.accuracy for point in chain], kept)
        self.dropped += [
            (point.name, f"thinned: within {self.loss:.4f} of a kept, quicker point")
            for index, point in enumerate(chain)
            if index not in kept
        ]
        self.points = [chain[index] for index in kept]
        self.times = [point.time(time, batch) for point in self.points]

    def _undominated(self, points: list[Point]) -> list[Point]:
        pairs = [(point.time(self.time, self.batch), point.accuracy) for point in points]
        chosen = pareto_front(pairs)
        for index, point in enumerate(points):
            if index not in chosen:
                winner = next(
                    points[i] for i in chosen if pairs[i][0] <= pairs[index][0] and pairs[i][1] >= pairs[index][1]
                )
                self.dropped.append((point.name, f"{winner.name} is as quick and as accurate"))
        return [points[index] for index in chosen]

    def _thinned(
        self, chain: list[Point], tolerance: float, max_points: int | None, max_bytes: int | None
    ) -> list[int]:
        accuracies = [point.accuracy for point in chain]

        def fits(kept: list[int]) -> bool:
            small = max_points is None or len(kept) <= whole("max_points", max_points)
            return small and (max_bytes is None or _memory(chain[index] for index in kept) <= max_bytes)

        # Every loss that a cover can have is a difference of two accuracies: the least one that fits is among these.
        gaps = {later - earlier for i, earlier in enumerate(accuracies) for later in accuracies[i:]}
        for loss in (tolerance, *sorted(gap for gap in gaps if gap > tolerance)):
            kept = _cover(accuracies, loss)
            if fits(kept):
                return kept
        needed = _memory([chain[0]])
        raise PrecutError(
            f"not even the quickest point alone fits: {chain[0].name!r} takes {byte_size(needed)}; raise max_bytes="
            f"{max_bytes}"
        )

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __getitem__(self, name: str) -> Point:
        for point in self.points:
            if point.name == name:
                return point
        raise unknown("point of the frontier", name, [point.name for point in self.points])

    def best(self, seconds: float) -> Point | None:
        """The most accurate kept point whose time is at most ``seconds``; None if there is none."""
        fitting = [point for point, time in zip(self.points, self.times, strict=True) if time <= seconds]
        return fitting[-1] if fitting else None

    @property
    def memory_bytes(self) -> int | None:
        """What holding all kept points ready takes; None where a point does not say."""
        if any(point.memory_bytes is None for point in self.points):
            return None
        return _memory(self.points)

    def p_values(self) -> list[float | None]:
        """For each pair of neighbours McNemar's p-value that their accuracies are equal; None where a point lacks
        ``correct``."""
        pairs = zip(self.points, self.points[1:], strict=False)
        return [None if a.correct is None or b.correct is None else mcnemar(a.correct, b.correct) for a, b in pairs]

    def table(self, level: float = 0.05) -> Table:
        """The kept points; a mark where the test set cannot tell a point from the one before it at ``level``."""
        rows = []
        for point, time, p in zip(self.points, self.times, [None, *self.p_values()], strict=True):
            rows.append(
                {
                    "point": point.name,
                    "time": time,
                    "accuracy": point.accuracy,
                    "memory": point.memory_bytes,
                    "p": p,
                    "mark": "" if p is None or p < level else "not told apart from the one above",
                }
            )
        columns = [
            Column("point"),
            Column("time", self.time, duration, "right"),
            Column("accuracy", "accuracy %", lambda share: f"{100 * share:.2f}", "right"),
            Column("memory", format=byte_size, align="right"),
            Column("p", "McNemar p", ".3f", "right"),
            Column("mark", ""),
        ]
        notes = [f"dropped {name}: {why}" for name, why in self.dropped]
        notes.append(f"accuracy lost to thinning, at any time: at most {100 * self.loss:.2f} points")
        if self.memory_bytes is not None:
            notes.append(f"memory of the kept set: {byte_size(self.memory_bytes)}")
        return Table(rows, columns, title=f"frontier of {len(self)} points, batch {self.batch}", notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def plot(self, path: str | Path) -> Path:
        """A picture of the kept points, time against accuracy."""
        rows = [
            {"ms": 1e3 * time, "accuracy": 100 * point.accuracy, "name": point.name}
            for point, time in zip(self.points, self.times, strict=True)
        ]
        return pareto_plot(
            rows,
            path,
            x="ms",
            y="accuracy",
            label="name",
            x_label=f"time, {self.time}, batch {self.batch} (ms)",
            y_label="accuracy (%)",
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data, samples included."""
        return {
            "format": _FORMAT,
            "time": self.time,
            "batch": self.batch,
            "loss": self.loss,
            "dropped": [list(pair) for pair in self.dropped],
            "environment": self.environment,
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
    ) -> Frontier:
        """The frontier in a file.

        Args:
            path: of the JSON file.
            runs: what runs each point, by name; points without an entry cannot be executed.
            other_machine: take one that was measured on another machine; its times are then not this machine's.

        Raises:
            PrecutError: no frontier, or another machine's.
        """
        path = Path(path)
        data = read_document(path, _FORMAT, "frontier file")
        where = data.get("environment")
        if where is not None and not other_machine:
            check_machine(path, where)
        with intact(path):
            points = [Point.from_dict(entry, (runs or {}).get(entry.get("name", ""))) for entry in data["points"]]
            frontier = cls(points, data["time"], batch=data["batch"], environment=where)
            frontier.loss = data["loss"]
            frontier.dropped = [(name, why) for name, why in data["dropped"]]
        return frontier


def _check(points: list[Point], tolerance: float) -> None:
    if not points:
        raise PrecutError("a frontier needs at least one point; got none")
    for point in points:
        if not isinstance(point, Point):
            raise PrecutError(f"a frontier takes deadline.Point objects; got {type(point).__name__} {point!r:.60}")
    names = [point.name for point in points]
    for name in names:
        if names.count(name) > 1:
            raise PrecutError(f"two points are named {name!r}; names must differ")
    real("tolerance", tolerance, 0, below=1, what="share of right answers")


def _cover(accuracies: list[float], tolerance: float) -> list[int]:
    """Fewest indices, the first among them, so that each index has a kept one before it at most ``tolerance`` below.

    Greedy is optimal: a kept point covers a run of its successors, and a later one never covers less far.
    """
    kept = [0]
    for index, accuracy in enumerate(accuracies):
        if accuracy - accuracies[kept[-1]] > tolerance:
            kept.append(index)
    return kept


def _loss(accuracies: list[float], kept: list[int]) -> float:
    last = 0
    worst = 0.0
    for index, accuracy in enumerate(accuracies):
        last = index if index in kept else last
        worst = max(worst, accuracy - accuracies[last])
    return worst


def _memory(points: Iterable[Point]) -> int:
    total = 0
    for point in points:
        if point.memory_bytes is None:
            raise PrecutError(
                f"point {point.name!r} does not say its memory; pass memory_bytes, or leave max_bytes out"
            )
        total += point.memory_bytes
    return total
