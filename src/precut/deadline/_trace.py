"""A trace: requests with their deadlines, and how long *every* point would have taken for each."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from precut._files import atomic_write
from precut.errors import PrecutError, unknown

__all__ = ["Trace"]

_FORMAT = "precut-trace-1"
_SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival. All policies, the oracles too, are judged on the same ones.

    Attributes:
        points: names, one a column of ``latency``.
        accuracies: of the points, 0 to 1.
        arrival: float64 of shape (n,), seconds, ascending.
        deadline: float64 of shape (n,), seconds on the same clock.
        latency: float64 of shape (n, points), seconds that each point takes for each request.
        meta: where it comes from: load, seed, environment.
    """

    points: tuple[str, ...]
    accuracies: tuple[float, ...]
    arrival: np.ndarray
    deadline: np.ndarray
    latency: np.ndarray
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, k = len(self.arrival), len(self.points)
        if n == 0:
            raise PrecutError("a trace needs at least one request; got none")
        if len(set(self.points)) != k or not k:
            raise PrecutError(f"a trace's points need different names; got {list(self.points)}")
        if len(self.accuracies) != k or self.deadline.shape != (n,) or self.latency.shape != (n, k):
            raise PrecutError(
                f"a trace of {n} requests and {k} points needs {k} accuracies, {n} deadlines and latencies ({n}, {k}); got "
                f"{len(self.accuracies)}, {self.deadline.shape} and {self.latency.shape}"
            )
        if not (np.isfinite(self.arrival).all() and np.isfinite(self.deadline).all()):
            raise PrecutError("a trace's arrivals and deadlines must be finite seconds")
        if not (np.isfinite(self.latency).all() and (self.latency > 0).all()):
            raise PrecutError("a trace's latencies must be finite seconds above 0")
        if (np.diff(self.arrival) < 0).any():
            first = int(np.argmax(np.diff(self.arrival) < 0)) + 1
            raise PrecutError(
                f"a trace's requests must be in order of arrival; request {first} comes before the last one"
            )

    def __len__(self) -> int:
        return len(self.arrival)

    def __repr__(self) -> str:
        return f"Trace({len(self)} requests, {len(self.points)} points, {self.meta.get('load', 'load not told')})"

    def with_deadlines(self, low_s: float, high_s: float, seed: int = 0) -> Trace:
        """The same requests with other deadlines: each uniformly from ``low_s`` to ``high_s`` seconds after arrival."""
        _check_range(low_s, high_s)
        after = np.random.default_rng(seed).uniform(low_s, high_s, len(self))
        meta = {**self.meta, "deadlines_s": [low_s, high_s], "deadline_seed": seed}
        return replace(self, deadline=self.arrival + after, meta=meta)

    def only(self, names: Sequence[str]) -> Trace:
        """The same requests with some of the points, in the order of ``names``."""
        for name in names:
            if name not in self.points:
                raise unknown("point of the trace", name, self.points)
        columns = [self.points.index(name) for name in names]
        accuracies = tuple(self.accuracies[column] for column in columns)
        return replace(self, points=tuple(names), accuracies=accuracies, latency=self.latency[:, columns])

    def write(self, path: str | Path) -> Path:
        """Writes the trace as JSON lines (a header, then a line a request) or parquet, by the path's ending."""
        path = Path(path)
        if path.suffix == ".jsonl":
            return atomic_write(path, self._lines())
        if path.suffix == ".parquet":
            return atomic_write(path, self._parquet())
        raise PrecutError(f"a trace's file name must end in {' or '.join(_SUFFIXES)}; got {str(path)!r}")

    def _header(self) -> dict[str, Any]:
        return {"format": _FORMAT, "accuracy": dict(zip(self.points, self.accuracies, strict=True)), **self.meta}

    def _lines(self) -> str:
        lines = [json.dumps(self._header())]
        for arrival, deadline, latency in zip(self.arrival, self.deadline, self.latency, strict=True):
            row = {
                "arrival": float(arrival),
                "deadline": float(deadline),
                "latency": dict(zip(self.points, map(float, latency), strict=True)),
            }
            lines.append(json.dumps(row))
        return "\n".join(lines) + "\n"

    def _parquet(self) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"arrival": self.arrival, "deadline": self.deadline}
        columns |= {f"latency.{name}": self.latency[:, k] for k, name in enumerate(self.points)}
        table = pa.table(columns).replace_schema_metadata({"precut": json.dumps(self._header())})
        out = io.BytesIO()
        pq.write_table(table, out)
        return out.getvalue()

    @classmethod
    def read(cls, path: str | Path, accuracies: Mapping[str, float] | None = None) -> Trace:
        """The trace in a file.

        Args:
            path: ``*.jsonl`` or ``*.parquet``.
            accuracies: of the points, for a file without a header that tells them.

        Raises:
            PrecutError: no such file, or what is wrong in which line.
        """
        path = Path(path)
        if path.suffix not in _SUFFIXES:
            raise PrecutError(f"a trace's file name must end in {' or '.join(_SUFFIXES)}; got {str(path)!r}")
        if not path.is_file():
            raise PrecutError(f"there is no trace file {str(path)!r}")
        header, rows = (_read_lines if path.suffix == ".jsonl" else _read_parquet)(path)
        known = {**header.get("accuracy", {}), **(accuracies or {})}
        names = list(rows["latency"])
        for name in names:
            if name not in known:
                raise PrecutError(
                    f"{str(path)!r} does not tell the accuracy of point {name!r}; pass accuracies, or --profile"
                )
        meta = {key: value for key, value in header.items() if key not in ("format", "accuracy")}
        latency = np.array([rows["latency"][name] for name in names], dtype=np.float64).T
        try:
            known = {name: float(known[name]) for name in names}
        except (TypeError, ValueError):
            raise PrecutError(f"{str(path)!r} has accuracies that are no numbers: {known!r:.200}") from None
        return cls(
            tuple(names),
            tuple(known[name] for name in names),
            np.asarray(rows["arrival"], dtype=np.float64),
            np.asarray(rows["deadline"], dtype=np.float64),
            latency.reshape(len(rows["arrival"]), len(names)),
            meta,
        )


def _check_range(low_s: float, high_s: float) -> None:
    if not 0 < low_s <= high_s < math.inf:
        raise PrecutError(f"deadlines lie from a low to a high number of seconds above 0; got {low_s!r} to {high_s!r}")


def _read_lines(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    header: dict[str, Any] = {}
    arrival: list[float] = []
    deadline: list[float] = []
    latency: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if number == 1 and "format" in row:
                    header = row
                    continue
                given = {name: float(seconds) for name, seconds in row["latency"].items()}
                arrival.append(float(row["arrival"]))
                deadline.append(float(row["deadline"]))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise PrecutError(
                    f"line {number} of {str(path)!r} is not {{arrival, deadline, latency: {{point: seconds}}}}: "
                    f"{type(error).__name__} {error}"
                ) from None
            if not latency:
                latency = {name: [] for name in given}
            if given.keys() != latency.keys():
                raise PrecutError(
                    f"line {number} of {str(path)!r} has points {sorted(given)}; the first {sorted(latency)}"
                )
            for name, seconds in given.items():
                latency[name].append(seconds)
    if header and header.get("format") != _FORMAT:
        raise PrecutError(
            f"{str(path)!r} has format {header.get('format')!r}; this version of precut reads {_FORMAT!r}"
        )
    return header, {"arrival": arrival, "deadline": deadline, "latency": latency}


def _read_parquet(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {}).get(b"precut", b"{}"))
        names = [name for name in table.column_names if name.startswith("latency.")]
        latency = {name.removeprefix("latency."): table[name].to_numpy() for name in names}
        return header, {
            "arrival": table["arrival"].to_numpy(),
            "deadline": table["deadline"].to_numpy(),
            "latency": latency,
        }
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise PrecutError(
            f"{str(path)!r} is not a parquet file with columns arrival, deadline and latency.POINT: {error}"
        ) from None
