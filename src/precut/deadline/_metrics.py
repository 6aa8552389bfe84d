"""What a replay is judged by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from precut.deadline._quantiles import wilson_interval
from precut.deadline._trace import Trace
from precut.report import Column, Table, lines_plot, percent

__all__ = ["Outcome", "Replay"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one policy did with each request of a trace, in the trace's order.

    Attributes:
        point: column of the chosen point, -1 where nothing was run.
        promised: whether the answer was promised.
        reasons: 0 none, 1 withheld, 2 infeasible, 3 probe.
        start, finish: seconds; ``finish`` is infinite where nothing was run.
        overhead: nanoseconds of choosing and observing.
        order: the requests in the order in which they were served.
    """

    point: np.ndarray
    promised: np.ndarray
    reasons: np.ndarray
    start: np.ndarray
    finish: np.ndarray
    overhead: np.ndarray
    order: np.ndarray

    def digest(self) -> str:
        """A checksum of everything but the overhead: equal for equal behaviour."""
        text = hashlib.sha256()
        for array in (self.point, self.promised, self.reasons, self.start, self.finish, self.order):
            text.update(np.ascontiguousarray(array).tobytes())
        return text.hexdigest()[:16]


class Replay:
    """The outcomes of several policies on one trace, and what they are worth.

    Attributes:
        trace: what was replayed.
        outcomes: by policy.
        rows: a row of figures for each policy; see ``figures``.
    """

    def __init__(self, trace: Trace, outcomes: Mapping[str, Outcome], clairvoyant: Outcome) -> None:
        self.trace = trace
        self.outcomes = dict(outcomes)
        self.clairvoyant = clairvoyant
        self.rows = [{"policy": name, **self.figures(outcome)} for name, outcome in self.outcomes.items()]

    def delivered(self, outcome: Outcome) -> np.ndarray:
        """Accuracy delivered for each request: the point's where it was in time, else 0."""
        accuracy = np.append(np.array(self.trace.accuracies), 0.0)
        return np.where(outcome.finish <= self.trace.deadline, accuracy[outcome.point], 0.0)

    def figures(self, outcome: Outcome) -> dict[str, Any]:
        """The figures of one policy. Shares are of all requests unless said otherwise.

        ``miss_rate`` (late or not run), with its Wilson interval at 95 %; ``promised``; ``broken`` and
        ``broken_per_promise``, with interval; ``abstained``, of which ``withheld``, ``infeasible``, ``probed``;
        ``oracle_infeasible`` (no point at all was in time for the clairvoyant); ``accuracy`` delivered (a late answer is
        wrong) and ``accuracy_in_time`` (of answers in time); ``regret`` (the clairvoyant's accuracy less this one's);
        ``switches_per_1000`` requests; ``late_p99_ms`` (of answers, how late); ``wait_ms`` (mean, before work begins);
        ``overhead_p50_us``, ``overhead_p99_us`` (measured here, choosing and observing).
        """
        n = len(self.trace)
        in_time = outcome.finish <= self.trace.deadline
        promises = int(outcome.promised.sum())
        broken = int((outcome.promised & ~in_time).sum())
        delivered = self.delivered(outcome)
        ran = outcome.point >= 0
        late = np.maximum(0.0, outcome.finish[ran] - self.trace.deadline[ran])
        served = outcome.point[outcome.order]
        served = served[served >= 0]
        best = self.delivered(self.clairvoyant)
        spent = outcome.overhead / 1e3
        return {
            "requests": n,
            "miss_rate": 1 - float(in_time.mean()),
            "miss_interval": list(wilson_interval(n - int(in_time.sum()), n)),
            "promised": promises / n,
            "broken": broken,
            "broken_per_promise": broken / promises if promises else 0.0,
            "broken_interval": list(wilson_interval(broken, promises)),
            "abstained": 1 - promises / n,
            "withheld": float((outcome.reasons == 1).mean()),
            "infeasible": float((outcome.reasons == 2).mean()),
            "probed": float((outcome.reasons == 3).mean()),
            "oracle_infeasible": float((self.clairvoyant.finish > self.trace.deadline).mean()),
            "accuracy": float(delivered.mean()),
            "accuracy_in_time": float(delivered[in_time].mean()) if in_time.any() else 0.0,
            "regret": float(best.mean() - delivered.mean()),
            "switches_per_1000": 1000 * float((np.diff(served) != 0).sum()) / n,
            "late_p99_ms": 1e3 * float(np.quantile(late, 0.99, method="inverted_cdf")) if len(late) else 0.0,
            "wait_ms": 1e3 * float((outcome.start - self.trace.arrival).mean()),
            "overhead_p50_us": float(np.quantile(spent, 0.5)),
            "overhead_p99_us": float(np.quantile(spent, 0.99)),
            "digest": outcome.digest(),
        }

    def table(self) -> Table:
        """The main figures of every policy."""
        keys = (
            "policy", "accuracy", "regret", "broken_per_promise", "broken_interval", "promised", "withheld", "infeasible",
            "miss_rate", "late_p99_ms", "switches_per_1000", "overhead_p99_us",
        )  # fmt: skip

        def span(pair: list[float]) -> str:
            return f"{100 * pair[0]:.1f}-{100 * pair[1]:.1f}"

        def points(share: float) -> str:
            return f"{100 * share:.2f}"

        columns = [
            Column("policy"),
            Column("accuracy", "delivered %", points, "right"),
            Column("regret", "regret", points, "right"),
            Column("broken_per_promise", "broken %", points, "right"),
            Column("broken_interval", "(95 %)", span, "right"),
            Column("promised", "promised", percent, "right"),
            Column("withheld", "withheld", percent, "right"),
            Column("infeasible", "infeasible", percent, "right"),
            Column("miss_rate", "missed", percent, "right"),
            Column("late_p99_ms", "late p99 ms", ".2f", "right"),
            Column("switches_per_1000", "switches", ".0f", "right"),
            Column("overhead_p99_us", "p99 us", ".1f", "right"),
        ]
        meta = self.trace.meta
        share = percent(self.rows[0]["oracle_infeasible"])
        notes = [
            "delivered: accuracy, a late answer being wrong; broken: of promises; switches: in 1,000 requests; p99 us: of "
            "choosing and observing, measured here",
            f"no point at all was in time in {share} of requests",
        ]
        title = f"{meta.get('load', 'trace')}, {len(self.trace)} requests, {len(self.trace.points)} points"
        return Table([{key: row[key] for key in keys} for row in self.rows], columns, title=title, notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data."""
        return {
            "requests": len(self.trace),
            "points": dict(zip(self.trace.points, self.trace.accuracies, strict=True)),
            "meta": json.loads(json.dumps(dict(self.trace.meta), default=str)),
            "policies": self.rows,
        }

    def plot(self, path: str | Path, policies: list[str] | None = None, parts: int = 60) -> Path:
        """A picture over time: accuracy delivered in each of ``parts`` stretches of the trace, a line a policy."""
        arrival = self.trace.arrival
        edges = np.linspace(0, len(arrival), min(parts, len(arrival)) + 1).astype(int)
        spans = [slice(a, b) for a, b in pairwise(edges)]
        times = [float(arrival[span].mean()) for span in spans]
        names = list(self.outcomes) if policies is None else policies
        series = {}
        for name in names:
            delivered = self.delivered(self.outcomes[name])
            series[name] = (times, [100 * float(delivered[span].mean()) for span in spans])
        return lines_plot(
            series,
            path,
            x_label="seconds",
            y_label="accuracy delivered (%)",
            title=f"{self.trace.meta.get('load', 'trace')}: late answers are wrong",
        )
