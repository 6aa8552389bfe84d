"""What an executor keeps of each request, and of what went wrong."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DROPPED", "FAILED", "IN_TIME", "LATE", "Answer", "Event", "Record", "Request"]

IN_TIME = "in time"
LATE = "late"
DROPPED = "dropped"
FAILED = "failed"


@dataclass(frozen=True)
class Record:
    """One request as it went. Times are seconds of the executor's clock.

    Attributes:
        number: in order of submission, from 0 up.
        arrival, deadline: of the request.
        start, finish: of the call that answered it, or of the last one that failed to; None if there was none.
        point: that was run; None for a dropped request.
        promised: whether the answer was promised in time.
        status: "in time", "late", "dropped" (nothing was run) or "failed" (what was run gave no answer).
        batch: requests that were answered by the same call.
        tries: calls that were made for it.
        note: why it was dropped or failed; empty otherwise.
    """

    number: int
    arrival: float
    deadline: float
    status: str
    start: float | None = None
    finish: float | None = None
    point: str | None = None
    promised: bool = False
    batch: int = 1
    tries: int = 0
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """What a request's future gives. ``value`` is None unless the status is "in time" or "late"."""

    value: Any
    record: Record


@dataclass(frozen=True)
class Event:
    """Something that an operator should know of.

    Attributes:
        time: seconds of the executor's clock.
        kind: "raised", "hung", "returned" (what had hung came back), "stalled" (the whole process stood still), "clock"
            (it ran backwards), "suspended", "resumed", "observer" (a callback of yours raised).
        text: what happened.
    """

    time: float
    kind: str
    text: str


@dataclass(order=True)
class Request:
    """A request that waits: ordered by deadline, then by arrival."""

    deadline: float
    number: int
    arrival: float = field(compare=False)
    inputs: tuple[Any, ...] = field(compare=False)
    future: Future[Answer] = field(compare=False)
    tries: int = field(compare=False, default=0)
    failed_on: frozenset[str] = field(compare=False, default=frozenset())
