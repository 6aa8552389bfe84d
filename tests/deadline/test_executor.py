"""The executor on made points: order, batching, what is never started, and every fault on the list."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest
import torch

from precut import PrecutError
from precut.deadline import Executor, Frontier, Point, Selector, profile
from precut.deadline._batching import pick_batch

LONG = 20.0  # seconds: no test waits that long, however busy the machine is


def point(name: str, accuracy: float, run: Callable, seconds: float = 1e-3, batches: tuple[int, ...] = (1,)) -> Point:
    return Point(name, accuracy, {size: [seconds * (1 + 0.2 * (size - 1))] * 300 for size in batches}, run)


def selector_of(*points: Point, **options) -> Selector:
    return Selector(points, follow=(0, 0), probe_every=0, **options)


class Gate:
    """A run that waits until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.began = threading.Event()
        self.calls: list[object] = []

    def __call__(self, item: object = None) -> object:
        self.calls.append(item)
        self.began.set()
        assert self.open.wait(LONG)
        return item


def kinds(executor: Executor) -> list[str]:
    return [event.kind for event in executor.events]


def test_the_most_accurate_answers_in_time():
    points = [point("small", 0.5, lambda x: ("small", x)), point("large", 0.9, lambda x: ("large", x), 5e-3)]
    with Executor(points, selector_of(*points)) as executor:
        answer = executor.submit(7, deadline_s=LONG).result(LONG)
    assert answer.value == ("large", 7)
    record = answer.record
    assert (record.status, record.point, record.promised, record.batch, record.tries) == (
        "in time",
        "large",
        True,
        1,
        1,
    )
    assert record.arrival <= record.start <= record.finish <= record.deadline
    assert list(executor.records) == [record]
    assert executor.counts == {"in time": 1}
    assert executor.selector.stats.kept == 1


def test_earliest_deadline_first():
    gate = Gate()
    points = [point("gate", 0.5, gate)]
    with Executor(points, selector_of(*points)) as executor:
        futures = [executor.submit("first", deadline_s=LONG)]
        assert gate.began.wait(LONG)
        futures += [executor.submit(name, deadline_s=LONG + after) for name, after in (("c", 3), ("a", 1), ("b", 2))]
        gate.open.set()
        for future in futures:
            assert future.result(LONG).record.status == "in time"
    assert gate.calls == ["first", "a", "b", "c"]


def test_what_cannot_finish_is_never_started():
    calls = []
    points = [point("p", 0.5, calls.append, seconds=0.5)]
    for how in ("smallest", "drop", "raise"):
        with Executor(points, selector_of(*points, infeasible=how)) as executor:
            answer = executor.submit(1, deadline_s=0.2).result(LONG)
        assert answer.value is None
        assert answer.record.status == "dropped"
        assert answer.record.note
        assert executor.selector.stats.infeasible == 1
    assert calls == []


def test_what_might_finish_is_tried_without_a_promise():
    points = [Point("p", 0.5, [1e-3] * 150 + [5.0] * 150, lambda x: x)]  # half of its calls take 5 seconds
    with Executor(points, selector_of(*points)) as executor:
        record = executor.submit(1, deadline_s=4.0).result(LONG).record
    assert (record.status, record.promised) == ("in time", False)


def test_a_deadline_that_passes_while_it_waits():
    gate = Gate()
    points = [point("gate", 0.5, gate)]
    with Executor(points, selector_of(*points)) as executor:
        first = executor.submit("first", deadline_s=LONG)
        assert gate.began.wait(LONG)
        second = executor.submit("second", deadline_s=0.01)
        time.sleep(0.03)
        gate.open.set()
        assert first.result(LONG).record.status == "in time"
        assert second.result(LONG).record.note == "its deadline passed while it waited"
    assert gate.calls == ["first"]


@pytest.mark.parametrize("wrong", [math.nan, None, "1", True])
def test_deadlines_that_are_no_numbers_are_refused(wrong):
    points = [point("p", 0.5, lambda: 1)]
    with (
        Executor(points, selector_of(*points)) as executor,
        pytest.raises(PrecutError, match="deadline_s must be a number"),
    ):
        executor.submit(deadline_s=wrong)
    assert executor.counts == {}


def test_negative_deadlines_are_dropped_and_counted():
    points = [point("p", 0.5, lambda: 1)]
    with Executor(points, selector_of(*points)) as executor:
        for wrong in (-1.0, 0.0, -math.inf):
            record = executor.submit(deadline_s=wrong).result(LONG).record
            assert (record.status, record.note) == ("dropped", "its deadline had passed when it came")
        assert executor.submit(deadline_s=math.inf).result(LONG).value == 1
    assert executor.counts == {"dropped": 3, "in time": 1}


def fail() -> object:
    raise ValueError("broken weights")


def test_a_point_that_raises_costs_nothing_but_time():
    """Another point answers the same request; the broken promise is booked."""
    points = [point("good", 0.5, lambda: "answer"), point("bad", 0.9, fail)]
    with Executor(points, selector_of(*points)) as executor:
        answer = executor.submit(deadline_s=LONG).result(LONG)
        assert (answer.value, answer.record.point, answer.record.tries) == ("answer", "good", 2)
    assert kinds(executor) == ["raised"]
    assert executor.events[0].text == "point 'bad' raised ValueError: broken weights"
    stats = executor.selector.stats
    assert (stats.promised, stats.kept, stats.broken) == (2, 1, 1)


def test_a_point_that_keeps_raising_is_suspended_and_comes_back():
    points = [point("good", 0.5, lambda: "good"), point("bad", 0.9, fail)]
    selector = selector_of(*points, alpha=0.5, alpha_most=0.5)
    with Executor(points, selector, strikes=2, rest_s=0.2) as executor:
        for _ in range(4):
            executor.submit(deadline_s=LONG).result(LONG)
        assert kinds(executor) == ["raised", "raised", "suspended"]
        time.sleep(0.25)
        executor.submit(deadline_s=LONG).result(LONG)
    assert kinds(executor)[3:] == ["resumed", "raised"]


def test_without_another_point_the_request_fails_and_the_next_is_served():
    answers = iter([ValueError("once"), SystemExit(3), "fine"])

    def run() -> object:
        found = next(answers)
        if isinstance(found, BaseException):
            raise found
        return found

    points = [point("only", 0.5, run)]
    with Executor(points, selector_of(*points, alpha=0.5, alpha_most=0.5)) as executor:
        first = executor.submit(deadline_s=LONG).result(LONG)
        assert first.record.status == "dropped"  # its one point is out of the question for the second try
        second = executor.submit(deadline_s=LONG).result(LONG)
        assert second.value is None
        assert executor.submit(deadline_s=LONG).result(LONG).value == "fine"
    assert kinds(executor) == ["raised", "raised"]
    with Executor([point("only", 0.5, fail)], selector_of(point("only", 0.5, fail)), retries=0) as executor:
        record = executor.submit(deadline_s=LONG).result(LONG).record
    assert (record.status, record.note) == ("failed", "point 'only' raised ValueError: broken weights")


def test_a_point_that_hangs_is_left_behind():
    gate = Gate()
    points = [point("good", 0.5, lambda: "good"), point("stuck", 0.9, gate)]
    with Executor(points, selector_of(*points), hang_least_s=0.1) as executor:
        stuck = executor.submit(deadline_s=LONG)
        assert gate.began.wait(LONG)
        after = executor.submit(deadline_s=LONG)
        answer = stuck.result(LONG)
        assert (answer.value, answer.record.status, answer.record.note) == (None, "failed", "point 'stuck' hung")
        assert after.result(LONG).record.point == "good"
        assert executor.submit(deadline_s=LONG).result(LONG).record.point == "good"
        gate.open.set()
        for _ in range(1000):
            if "returned" in kinds(executor):
                break
            time.sleep(0.01)
        assert executor.submit(deadline_s=LONG).result(LONG).record.status == "in time"
    assert [kind for kind in kinds(executor) if kind != "stalled"] == ["hung", "returned"]
    assert executor.selector.stats.broken == 1


def test_a_point_that_is_late():
    points = [point("slow", 0.5, lambda: time.sleep(0.1))]
    with Executor(points, selector_of(*points)) as executor:
        record = executor.submit(deadline_s=0.05).result(LONG).record
    assert record.status == "late"
    assert record.promised
    assert record.finish > record.deadline
    assert executor.selector.stats.broken == 1


def test_a_clock_that_jumps():
    """Back by an hour during a call: nothing can be said of its time, so the promise counts as broken; then on. Forward
    by an hour while a request waits: it is late, and dropped."""
    shift = [0.0]
    jump = [0.0]

    def run() -> str:
        shift[0] += jump[0]
        return "ok"

    points = [point("p", 0.5, run)]
    selector = selector_of(*points, alpha=0.5, alpha_most=0.5)
    with Executor(points, selector, clock=lambda: time.monotonic() + shift[0]) as executor:
        jump[0] = -3600
        assert executor.submit(deadline_s=LONG).result(LONG).value == "ok"
        assert selector.stats.broken == 1
        assert kinds(executor) == ["clock"]
        jump[0] = 3600
        assert executor.submit(deadline_s=LONG).result(LONG).record.status == "late"
        jump[0] = 0
        assert executor.submit(deadline_s=LONG).result(LONG).record.status == "in time"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there is no SIGSTOP here")
def test_the_process_stopped_and_continued(tmp_path):
    """A request in flight when the process stands still is late, not hung; the next ones are served."""
    script = textwrap.dedent(
        """
        import json, sys, time
        from precut.deadline import Executor, Point, Selector
        def run():
            print("running", flush=True)
            sys.stdin.readline()
            return "answer"
        points = [Point("p", 0.5, [1e-3] * 300, run)]
        with Executor(points, Selector(points), hang_least_s=1.5) as executor:
            first = executor.submit(deadline_s=0.5).result(60)
            second = executor.submit(deadline_s=60).result(60)
        print(json.dumps([first.record.status, first.value, second.record.status, [e.kind for e in executor.events]]))
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "running\n"
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(2.0)
        os.kill(child.pid, signal.SIGCONT)
        child.stdin.write("\n\n")
        child.stdin.flush()
        assert child.stdout.readline() == "running\n"
        first, value, second, told = json.loads(child.stdout.readline())
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.stdin.close()
        child.stdout.close()
    assert (first, value, second) == ("late", "answer", "in time")
    assert "stalled" in told
    assert "hung" not in told


def test_a_full_queue_and_closing():
    gate = Gate()
    points = [point("gate", 0.5, gate)]
    executor = Executor(points, selector_of(*points), queue=2)
    running = executor.submit("a", deadline_s=LONG)
    assert gate.began.wait(LONG)
    kept = [executor.submit(name, deadline_s=LONG) for name in "bc"]
    full = executor.submit("d", deadline_s=LONG).result(LONG)
    assert (full.record.status, full.record.note) == ("dropped", "2 requests were waiting")
    assert executor.waiting == 2
    closer = threading.Thread(target=executor.close, kwargs={"finish": False})
    closer.start()
    while executor.waiting:
        time.sleep(0.005)
    gate.open.set()
    closer.join(LONG)
    assert running.result(LONG).record.status == "in time"
    assert [future.result(LONG).record.note for future in kept] == ["the executor was closed"] * 2
    with pytest.raises(PrecutError, match="this executor is closed"):
        executor.submit(deadline_s=1.0)


def test_observers_see_everything_and_may_fail():
    seen = []

    def observer(record: object) -> None:
        seen.append(record)
        raise RuntimeError("mine")

    points = [point("p", 0.5, lambda: 1)]
    with Executor(points, selector_of(*points), on_record=observer) as executor:
        executor.submit(deadline_s=LONG).result(LONG)
        executor.submit(deadline_s=LONG).result(LONG)
    assert len(seen) == 2
    assert [event.text for event in executor.events] == ["observer raised RuntimeError: mine"] * 2


def test_history_is_bounded():
    points = [point("p", 0.5, lambda: 1)]
    with Executor(points, selector_of(*points), history=5) as executor:
        for _ in range(12):
            executor.submit(deadline_s=LONG).result(LONG)
    assert len(executor.records) == 5
    assert executor.counts == {"in time": 12}


def test_pick_batch_by_exhaustive_simulation():
    """One point of 1 s a call at any size, so the larger batch is better as soon as the head's deadline allows it."""

    def flat(size: int) -> dict[str, float]:
        return {"p": {1: 1.0, 4: 1.5}[size if size in (1, 4) else 4]}

    assert pick_batch([2.0, 2.0, 2.0, 2.0], [1, 4], {"p": 0.5}, flat) == 4
    assert pick_batch([1.2, 9.0, 9.0, 9.0], [1, 4], {"p": 0.5}, flat) == 1  # the first could not wait for 1.5 s
    assert pick_batch([9.0], [1, 4], {"p": 0.5}, flat) == 1

    def two(size: int) -> dict[str, float]:
        return {"quick": 0.5 + 0.1 * size, "good": 2.0 + 0.1 * size}

    # one good answer now would make three others late: four quick ones deliver more
    assert pick_batch([2.5] * 4, [1, 4], {"quick": 0.6, "good": 0.9}, two) == 4


def test_batches_give_each_request_its_own_answer():
    torch.manual_seed(0)
    gate = Gate()
    layer = torch.nn.Linear(3, 2)
    sizes = []

    def run(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        if len(sizes) == 1:
            gate()
        with torch.no_grad():
            return layer(x)

    points = [point("p", 0.5, run, batches=(1, 4))]
    inputs = torch.randn(6, 1, 3)
    with Executor(points, selector_of(*points), batching=True) as executor:
        futures = [executor.submit(inputs[0], deadline_s=LONG)]
        assert gate.began.wait(LONG)
        futures += [executor.submit(x, deadline_s=LONG) for x in inputs[1:]]
        gate.open.set()
        answers = [future.result(LONG) for future in futures]
    assert sizes == [1, 1, 4]  # as soon done as 1, 4, 1, and the first deadline is served first
    assert [answer.record.batch for answer in answers] == [1, 1, 4, 4, 4, 4]
    for x, answer in zip(inputs, answers, strict=True):
        torch.testing.assert_close(answer.value, layer(x).detach())


def test_many_threads_submit():
    points = [point("p", 0.5, lambda x: x)]
    with Executor(points, selector_of(*points)) as executor:
        found: list[int] = []

        def submit(base: int) -> None:
            futures = [executor.submit(base + index, deadline_s=LONG) for index in range(50)]
            found.extend(future.result(LONG).value for future in futures)

        threads = [threading.Thread(target=submit, args=(1000 * base,)) for base in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert sorted(found) == sorted(1000 * base + index for base in range(4) for index in range(50))
    assert executor.selector.stats.most_outstanding == 1


def test_profiled_modules_run():
    from precut.deadline import Target

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    x = torch.randn(1, 3, 6, 6)
    model(x)
    found = profile([Target("net", model, 0.7)], x, rounds=300, warmup=1, progress=False)
    with Executor(found.points, Selector(Frontier(found.points))) as executor:
        answer = executor.submit(x, deadline_s=LONG).result(LONG)
    torch.testing.assert_close(answer.value, model.eval()(x).detach())


def test_wrong_uses():
    points = [point("p", 0.5, lambda: 1)]
    with pytest.raises(PrecutError, match="the frontier is empty"):
        Executor([], Selector([]))
    with pytest.raises(PrecutError, match="may choose point 'p', which the executor was not given"):
        Executor([], Selector(points))
    with pytest.raises(PrecutError, match="point 'x' cannot be run"):
        Executor([Point("x", 0.5, [1e-3] * 300)], Selector([Point("x", 0.5, [1e-3] * 300)]))


def test_a_request_that_was_taken_cannot_be_cancelled():
    gate = Gate()
    points = [point("one", 0.5, gate)]
    with Executor(points, selector_of(*points)) as executor:
        first = executor.submit(1, deadline_s=LONG)
        assert gate.began.wait(LONG)
        second = executor.submit(2, deadline_s=LONG)
        assert not first.cancel()
        assert not second.cancel()
        gate.open.set()
        assert [first.result(LONG).value, second.result(LONG).value] == [1, 2]


def test_a_selector_that_raises_does_not_end_the_service(monkeypatch):
    points = [point("one", 0.5, lambda x: x)]
    selector = selector_of(*points)

    def observe(*arguments):
        raise PrecutError("this decision is none of mine")

    monkeypatch.setattr(selector, "observe", observe)
    with Executor(points, selector) as executor:
        assert [executor.submit(k, deadline_s=LONG).result(LONG).value for k in range(3)] == [0, 1, 2]
    assert kinds(executor).count("selector") == 3


def test_parts_that_do_not_add_up_are_a_fault_of_the_point():
    points = [point("one", 0.5, lambda x: x)]
    with Executor(points, selector_of(*points), part=lambda value, inputs: [], retries=0) as executor:
        answer = executor.submit(1, deadline_s=LONG).result(LONG)
        assert answer.record.status == "failed"
        assert "part gave 0 answers for 1 requests" in answer.record.note
        assert executor.submit(2, deadline_s=LONG).result(LONG).record.status == "failed"
