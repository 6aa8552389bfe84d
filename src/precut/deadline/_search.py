"""Growing a family of networks with several workers, on this machine or on a Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from precut._files import atomic_write
from precut.deadline._space import Space, check_count
from precut.deadline._study import Plan, counts_of, failures_of, open_study, trials_of
from precut.errors import PrecutError, whole
from precut.report import Column, Table, duration, pareto_front, pareto_plot, si

__all__ = ["SearchResult", "search", "storage_url"]

_LOOK_S = 0.5
_RESTARTS = 3  # of a worker that died; its trial is taken up again in any case


@dataclass(frozen=True)
class SearchResult:
    """What a study found so far.

    Attributes:
        plan: of the study.
        rows: finished candidates: their choices, ``seconds``, ``accuracy``, and facts.
        counts: trials by state.
        best: rows that no other beats and that meet the minimum accuracy, quickest first.
        failures: what candidates raised.
    """

    plan: Plan
    rows: list[dict[str, Any]]
    counts: Mapping[str, int]
    failures: list[str]

    @property
    def done(self) -> bool:
        """Whether all trials are over."""
        return self.counts["finished"] + self.counts["halved"] + self.counts["rejected"] >= self.plan.trials

    @property
    def best(self) -> list[dict[str, Any]]:
        """Rows that no other beats, of those that meet the minimum accuracy; quickest first."""
        able = [row for row in self.rows if row["accuracy"] >= self.plan.min_accuracy]
        return [able[index] for index in pareto_front([(row["seconds"], row["accuracy"]) for row in able])]

    def table(self) -> Table:
        """The best candidates."""
        names = list(self.plan.space)
        columns = [Column("trial"), *(Column(name) for name in names)]
        columns += [
            Column("seconds", "p10", duration, "right"),
            Column("accuracy", "validation %", lambda share: f"{100 * share:.2f}", "right"),
            Column("macs", "MACs", si, "right"),
        ]
        keys = [column.key for column in columns]
        rows = [{key: row.get(key) for key in keys} for row in self.best]
        told = ", ".join(f"{number} {state}" for state, number in self.counts.items() if number)
        return Table(rows, columns, title=f"study {self.plan.name}: {told}", notes=[f"in {self.plan.shown_storage}"])

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"plan": asdict(self.plan), "counts": dict(self.counts), "rows": self.rows, "best": self.best}

    def save(self, folder: str | Path) -> Path:
        """Writes ``search.json`` and, with finished candidates, ``search.png`` into ``folder``."""
        folder = Path(folder)
        if self.rows:
            rows = [
                {"ms": 1e3 * row["seconds"], "accuracy": 100 * row["accuracy"], "group": "finished"}
                for row in self.rows
            ]
            pareto_plot(
                rows,
                folder / "search.png",
                x="ms",
                y="accuracy",
                group="group",
                x_label="time of a call, p10 (ms)",
                y_label="validation accuracy (%)",
                log_x=True,
            )
        return atomic_write(folder / "search.json", json.dumps(self.to_dict(), indent=1) + "\n")


def storage_url(given: str | None, folder: str | Path) -> str:
    """A database's URL: ``given`` if it is one, a SQLite file's otherwise (``folder/study.db`` by default)."""
    if given and "://" in given:
        # SQLAlchemy would take psycopg2 for the bare name
        return given.replace("postgresql://", "postgresql+psycopg://", 1)
    path = Path(given) if given else Path(folder) / "study.db"
    return f"sqlite:///{path.resolve()}"


def search(
    plan: Plan,
    workers: int = 1,
    *,
    ray: str | None = None,
    on_change: Callable[[Mapping[str, int]], None] | None = None,
) -> SearchResult:
    """Works on the study until its trials are over; the same call again goes on with what is left.

    Any number of processes and machines may do this at once on one database. A worker that dies is started again, and
    its trial goes on in its run folder when it has been silent for ``plan.grace_s`` seconds. Ctrl-C stops the workers,
    each of which hands its trial back.

    Args:
        plan: of the study.
        workers: processes here; with Ray tasks, on whatever nodes have room.
        ray: a cluster's address, or "auto".
        on_change: told the counts of trials whenever they changed.

    Raises:
        PrecutError: the database or the cluster cannot be used, more trials than candidates, workers that die at once,
            or candidates that fail one after the other.
    """
    whole("workers", workers)
    whole("trials", plan.trials)
    check_count(Space(plan.space), plan.trials)
    folder = Path(plan.runs)
    folder.mkdir(parents=True, exist_ok=True)
    if plan.storage.startswith("sqlite:///"):
        Path(plan.storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    study = open_study(plan)
    if ray is not None:
        from precut.deadline._on_ray import run_on_ray

        run_on_ray(plan, workers, ray, lambda: _tell(study, on_change))
    else:
        _run_here(plan, workers, folder, lambda: _tell(study, on_change))
    result = SearchResult(plan, trials_of(study), counts_of(study), failures_of(study))
    result.save(folder)
    return result


def _tell(study: Any, on_change: Callable[[Mapping[str, int]], None] | None) -> None:
    if on_change is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            on_change(counts_of(study))


def _run_here(plan: Plan, workers: int, folder: Path, tell: Callable[[], None]) -> None:
    file = atomic_write(folder / "plan.json", json.dumps(asdict(plan), indent=1) + "\n")
    environment = {**os.environ, "OMP_NUM_THREADS": str(plan.settings.get("threads", 1))}

    def start(number: int) -> subprocess.Popen[bytes]:
        with (folder / f"worker-{number}.log").open("ab") as log:
            command = [sys.executable, "-m", "precut.deadline._worker", str(file), str(number)]
            # In a session of its own: a terminal's Ctrl-C comes to this process alone, which passes it on once.
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    running = {number: start(number) for number in range(workers)}
    restarts = 0
    try:
        while running:
            time.sleep(_LOOK_S)
            tell()
            for number, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[number]
                if code == 2:
                    raise PrecutError(_last_line(folder / f"worker-{number}.log"))
                if code != 0:
                    restarts += 1
                    if restarts > _RESTARTS * workers:
                        log = folder / f"worker-{number}.log"
                        raise PrecutError(f"workers died {restarts} times ({log}); the last said: {_last_line(log)}")
                    running[number] = start(number)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    tell()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("precut: error: ") if lines else f"a worker stopped; see {log}"
