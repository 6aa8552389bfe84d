"""Runs real requests with real deadlines in this process."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from precut.deadline._batching import collate, pick_batch, split
from precut.deadline._decision import Decision
from precut.deadline._point import Point
from precut.deadline._requests import DROPPED, FAILED, IN_TIME, LATE, Answer, Event, Record, Request
from precut.deadline._selector import Selector
from precut.errors import PrecutError, real, whole

__all__ = ["Executor"]

_TICK_S = 0.02  # how often work under way is looked at
_STALL_S = 0.25  # a look that comes so much later than it should means that the whole process stood still


@dataclass
class _Job:
    """A call under way."""

    requests: list[Request]
    decision: Decision
    point: Point
    start: float
    limit: float  # seconds after which it counts as hung


class Executor:
    """Answers requests with the most accurate point that is ready in time, earliest deadline first, one call at a time.

    Work that cannot finish in time is not started: the request is dropped, and says so. A point that raises, hangs or
    is late costs its own request at most; the executor goes on. What happened is in ``records`` (each request) and
    ``events`` (what an operator should know). Use it as a context manager, or call ``close``.

    Deadlines are kept on a clock that only runs forward (``time.monotonic``), so setting the wall clock changes nothing.

    Args:
        points: with ``run``; every point of the selector must be among them.
        selector: chooses, and hears how long each call took.
        batching: answer several waiting requests by one call where that serves them better. Requests must then be
            tensors with a first axis for examples, one example each (see ``join`` and ``part`` for other inputs).
        hang_factor, hang_least_s: a call that takes more than ``hang_factor`` times what it was expected to keep, and
            more than ``hang_least_s`` seconds, counts as hung: its request fails, the thread is left to itself, and the
            point is not used until it comes back.
        strikes: a point that raises so many times in a row is suspended ...
        rest_s: ... for so many seconds.
        retries: other points that are tried when one raises and there is time.
        queue: requests that may wait; more are dropped.
        history: records and events that are kept, each.
        on_record, on_event: called with each, from the thread in which it happened.
        clock: seconds; another for tests.
        join, part: many requests' inputs to one call's, and a call's outputs to each request's.

    Raises:
        PrecutError: a point of the selector that cannot be run, or arguments out of range.
    """

    def __init__(
        self,
        points: Iterable[Point],
        selector: Selector,
        *,
        batching: bool = False,
        hang_factor: float = 10.0,
        hang_least_s: float = 1.0,
        strikes: int = 3,
        rest_s: float = 30.0,
        retries: int = 1,
        queue: int = 1000,
        history: int = 10_000,
        on_record: Callable[[Record], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        join: Callable[..., Any] = collate,
        part: Callable[..., Any] = split,
    ) -> None:
        self.points = {point.name: point for point in points}
        for point in selector.points:
            if point.name not in self.points:
                raise PrecutError(f"the selector may choose point {point.name!r}, which the executor was not given")
            if self.points[point.name].run is None:
                raise PrecutError(f"point {point.name!r} cannot be run: it has no callable (Point(..., run=...))")
        self.selector = selector
        self.batching = batching
        self.hang_factor = hang_factor
        self.hang_least_s = hang_least_s
        self.strikes = whole("strikes", strikes)
        self.rest_s = rest_s
        self.retries = whole("retries", retries, 0)
        self.room = whole("queue", queue)
        self.records: deque[Record] = deque(maxlen=whole("history", history))
        self.events: deque[Event] = deque(maxlen=history)
        self.counts: Counter[str] = Counter()
        self._on_record = on_record
        self._on_event = on_event
        self._clock = clock
        self._join = join
        self._part = part
        self._accuracy = {point.name: point.accuracy for point in selector.points}
        self._least = {
            (point.name, size): min(times) for point in selector.points for size, times in point.samples.items()
        }
        self._changed = threading.Condition()
        self._queue: list[Request] = []
        self._number = 0
        self._closing = False
        self._job: _Job | None = None
        self._worker = 0  # the thread that may take work; others were given up
        self._hung: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()
        self._resting: dict[str, float] = {}
        self._done: list[tuple[Request, Answer]] = []
        self._told: list[Event] = []
        self._start_worker()
        self._watcher = threading.Thread(target=self._watch, name="precut-deadline-watch", daemon=True)
        self._watcher.start()

    def submit(self, *inputs: Any, deadline_s: float) -> Future[Answer]:
        """Takes a request whose answer is needed within ``deadline_s`` seconds from now.

        The future gives an :class:`Answer`, whatever happens; it does not raise what a point raised.

        Raises:
            PrecutError: a deadline that is not a number, or a closed executor.
        """
        deadline_s = real("deadline_s", deadline_s, what="number of seconds from now")
        with self._changed:
            if self._closing:
                raise PrecutError("this executor is closed; it takes no more requests")
            now = self._clock()
            request = Request(now + deadline_s, self._number, now, inputs, Future())
            request.future.set_running_or_notify_cancel()  # once it is taken it is answered: it cannot be cancelled
            self._number += 1
            if deadline_s <= 0:
                self._drop(request, "its deadline had passed when it came")
            elif len(self._queue) >= self.room:
                self._drop(request, f"{self.room} requests were waiting")
            else:
                heapq.heappush(self._queue, request)
                self._changed.notify_all()
        self._deliver()
        return request.future

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def close(self, finish: bool = True) -> None:
        """Takes no more requests; answers those that wait, or drops them where ``finish`` is False, and waits for the call
        under way. Not from a callback, which that call would wait for."""
        with self._changed:
            self._closing = True
            if not finish:
                while self._queue:
                    self._drop(heapq.heappop(self._queue), "the executor was closed")
            self._changed.notify_all()
            while self._queue or self._job is not None:
                self._changed.wait()
        self._deliver()
        self._watcher.join()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(finish=kind is None)

    # What follows down to _deliver runs with the lock held.

    def _start_worker(self) -> None:
        self._worker += 1
        threading.Thread(target=self._work, args=(self._worker,), name="precut-deadline", daemon=True).start()

    def _event(self, kind: str, text: str) -> None:
        self._told.append(Event(self._clock(), kind, text))

    def _drop(self, request: Request, why: str) -> None:
        self._settle(request, None, DROPPED, note=why)

    def _settle(self, request: Request, value: Any, status: str, job: _Job | None = None, **more: Any) -> None:
        if job is not None:
            more |= {
                "start": job.start,
                "point": job.point.name,
                "promised": job.decision.promised,
                "batch": len(job.requests),
            }
        record = Record(request.number, request.arrival, request.deadline, status, tries=request.tries, **more)
        self._done.append((request, Answer(value, record)))

    def _next_job(self) -> _Job | None:
        """Takes what is due first from the queue; None where it had to be dropped."""
        now = self._clock()
        for name, until in list(self._resting.items()):
            if now >= until:
                del self._resting[name]
                self._event("resumed", f"point {name!r} is used again")
        away = {name for name, times in self._hung.items() if times} | set(self._resting)
        first = self._queue[0]
        left = first.deadline - now
        if left <= 0:
            self._drop(heapq.heappop(self._queue), "its deadline passed while it waited")
            return None
        size = 1
        if self.batching and len(self._queue) > 1 and not first.failed_on:
            ahead = heapq.nsmallest(4 * max(self.selector.batches), self._queue)
            lefts = [request.deadline - now for request in ahead]
            size = pick_batch(lefts, self.selector.batches, self._accuracy, self.selector.bounds)
        try:
            decision = self.selector.choose(left, batch=size, without=away | first.failed_on)
        except PrecutError as error:  # a selector that raises when nothing fits
            self._drop(heapq.heappop(self._queue), str(error))
            return None
        if decision.point is None:
            out = f" ({len(away)} points are out of use)" if away else ""
            self._drop(heapq.heappop(self._queue), f"nothing fits the time that is left{out}")
            return None
        measured = decision.point.table_batch(size)
        if not decision.promised and self._least[decision.point.name, measured] > left:
            self._observe(decision, math.inf)
            self._drop(heapq.heappop(self._queue), "not even the quickest call ever measured would be in time")
            return None
        requests = [heapq.heappop(self._queue) for _ in range(size)]
        for request in requests:
            request.tries += 1
        expected = decision.bound_s if math.isfinite(decision.bound_s) else left
        limit = max(self.hang_least_s, self.hang_factor * expected)
        return _Job(requests, decision, self.points[decision.point.name], self._clock(), limit)

    def _observe(self, decision: Decision, seconds: float) -> None:
        try:
            self.selector.observe(decision, seconds)
        except Exception as error:  # its state was replaced during the call, say: no reason to end the service
            self._event("selector", f"observe raised {type(error).__name__}: {error}")

    def _finish(self, job: _Job, value: Any, error: BaseException | None) -> None:
        """Books a call that came back, with its value or its error."""
        now = self._clock()
        seconds = now - job.start
        name = job.point.name
        if seconds < 0:
            self._event("clock", f"the clock ran back by {-seconds:.3f} s or more while point {name!r} was at work")
        # What was not timed, or gave no answer, keeps no promise and teaches nothing.
        self._observe(job.decision, math.inf if error is not None or seconds < 0 else seconds)
        if error is None:
            self._strikes[name] = 0
            for request, own in zip(job.requests, value, strict=True):
                self._settle(request, own, IN_TIME if now <= request.deadline else LATE, job, finish=now)
            return
        text = f"{type(error).__name__}: {error}"
        self._event("raised", f"point {name!r} raised {text}")
        self._strikes[name] += 1
        if self._strikes[name] >= self.strikes:
            self._strikes[name] = 0
            self._resting[name] = now + self.rest_s
            self._event(
                "suspended", f"point {name!r} raised {self.strikes} times in a row; not used for {self.rest_s:g} s"
            )
        for request in job.requests:
            if request.tries <= self.retries and not self._closing:
                request.failed_on |= {name}
                heapq.heappush(self._queue, request)
            else:
                self._settle(request, None, FAILED, job, finish=now, note=f"point {name!r} raised {text}")

    def _give_up(self, job: _Job) -> None:
        """A call hangs: its requests fail, another thread goes on."""
        name = job.point.name
        self._event("hung", f"point {name!r} gave no answer within {job.limit:.3f} s; its thread is left to itself")
        self._hung[name] += 1
        self._observe(job.decision, math.inf)
        for request in job.requests:
            self._settle(request, None, FAILED, job, note=f"point {name!r} hung")
        self._job = None
        self._start_worker()
        self._changed.notify_all()

    def _deliver(self) -> None:
        """Hands out what was settled, without the lock: callbacks may submit again."""
        with self._changed:
            done, self._done = self._done, []
            told, self._told = self._told, []
            self.events.extend(told)
            for _, answer in done:
                self.records.append(answer.record)
                self.counts[answer.record.status] += 1
        for event in told:
            self._call(self._on_event, event)
        for request, answer in done:
            request.future.set_result(answer)
            self._call(self._on_record, answer.record)

    def _call(self, observer: Callable[[Any], None] | None, item: Any) -> None:
        if observer is None:
            return
        try:
            observer(item)
        except Exception as error:  # somebody else's code must not stop the service
            text = f"{getattr(observer, '__name__', observer)} raised {type(error).__name__}: {error}"
            self.events.append(Event(self._clock(), "observer", text))

    def _work(self, me: int) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing and me == self._worker:
                    self._changed.wait()
                if me != self._worker or not self._queue:
                    return
                job = self._job = self._next_job()
                self._changed.notify_all()
            self._deliver()
            if job is None:
                continue
            value, error = None, None
            try:
                inputs = [request.inputs for request in job.requests]
                run = job.point.run
                assert run is not None
                value = list(self._part(run(*self._join(inputs)), inputs))
                if len(value) != len(inputs):
                    raise PrecutError(f"part gave {len(value)} answers for {len(inputs)} requests")
            except BaseException as raised:  # SystemExit too: one point's end is not the service's
                error = raised
            with self._changed:
                if me != self._worker:  # given up meanwhile
                    self._hung[job.point.name] -= 1
                    took = self._clock() - job.start
                    self._event("returned", f"point {job.point.name!r} came back after {took:.3f} s; it is used again")
                else:
                    self._finish(job, value, error)
                    self._job = None
                self._changed.notify_all()
            self._deliver()

    def _watch(self) -> None:
        """Looks at the call under way, so that one which never returns does not stop the rest."""
        while True:
            with self._changed:
                while self._job is None:
                    if self._closing and not self._queue:
                        return
                    self._changed.wait()
                job = self._job
                began = looked = time.monotonic()
            while True:
                time.sleep(_TICK_S)
                now = time.monotonic()
                with self._changed:
                    gap = now - looked - _TICK_S
                    looked = now
                    if gap > _STALL_S:  # told even where the call ended at once when the process went on
                        began += gap  # time in which nobody ran says nothing about the point
                        self._event("stalled", f"the process stood still for about {gap:.2f} s")
                    if self._job is not job:
                        break
                    if now - began > job.limit:
                        self._give_up(job)
                        break
                self._deliver()
            self._deliver()
