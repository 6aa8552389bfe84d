"""Time of one call, measured: warm-up, many repeats, and the conditions beside the number."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from precut._environment import environment
from precut.errors import PrecutError, real, whole
from precut.measure._inputs import as_inputs, batch_of
from precut.report import duration

__all__ = ["LatencyReport", "latency"]

_P99_NEEDS = 100  # below this the 99th percentile is just the slowest call
_P90_NEEDS = 10


def quantile(ordered: list[float], share: float) -> float:
    """The nearest-rank quantile of sorted values: the smallest that at least ``share`` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class LatencyReport:
    """Seconds of single calls, with their conditions; ``str()`` is one line that names them.

    Attributes:
        seconds: of each timed call, in order.
        batch: examples in a call.
        warmup: calls before the timed ones.
        threads: of torch, during the calls.
        environment: machine and versions.
    """

    seconds: tuple[float, ...]
    batch: int
    warmup: int
    threads: int
    environment: dict[str, Any]

    @property
    def n(self) -> int:
        """How many calls were timed."""
        return len(self.seconds)

    @property
    def median(self) -> float:
        """Seconds that half of the calls do not exceed (of an even number the mean of the middle two)."""
        ordered = sorted(self.seconds)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    @property
    def min(self) -> float:
        """Seconds of the fastest call."""
        return min(self.seconds)

    @property
    def mean(self) -> float:
        """Mean seconds."""
        return sum(self.seconds) / len(self.seconds)

    @property
    def p90(self) -> float | None:
        """Seconds that 90 % of the calls do not exceed; None from fewer than 10 calls."""
        return quantile(sorted(self.seconds), 0.90) if self.n >= _P90_NEEDS else None

    @property
    def p99(self) -> float | None:
        """Seconds that 99 % of the calls do not exceed; None from fewer than 100 calls, which cannot tell."""
        return quantile(sorted(self.seconds), 0.99) if self.n >= _P99_NEEDS else None

    def __str__(self) -> str:
        slow = duration(self.p99) if self.p99 is not None else f"needs n >= {_P99_NEEDS}"
        where = self.environment
        return (
            f"median {duration(self.median)}, p99 {slow}, min {duration(self.min)} (n={self.n}, batch {self.batch}, "
            f"{thread_text(self.threads)}, {where['device']}, {where['cpu']}, torch {where['versions']['torch']})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The statistics and conditions as plain data, without the single calls."""
        keys = ("n", "median", "min", "mean", "p90", "p99", "batch", "warmup", "threads", "environment")
        return {key: getattr(self, key) for key in keys}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def thread_text(number: int) -> str:
    """ "1 thread", "2 threads"."""
    return "1 thread" if number == 1 else f"{number} threads"


@contextlib.contextmanager
def prepared(threads: int | None) -> Iterator[int]:
    """torch with ``threads``, no gradients, no garbage collection; afterwards all as before. Yields the threads."""
    before = torch.get_num_threads()
    wanted = before if threads is None else whole("threads", threads)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    torch.set_num_threads(wanted)
    try:
        # Not inference_mode: what a model caches in there could never be trained with again.
        with torch.no_grad():
            yield wanted
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()


@contextlib.contextmanager
def ready(target: Any, what: str) -> Iterator[Callable[..., Any]]:
    """``target`` for timing: a module in eval mode (afterwards in the modes it had), another callable as it is."""
    if not callable(target):
        raise PrecutError(f"{what} takes an nn.Module or a callable; got {type(target).__name__} {target!r:.60}")
    modes = {module: module.training for module in target.modules()} if isinstance(target, nn.Module) else {}
    if isinstance(target, nn.Module):
        target.eval()
    try:
        yield target
    finally:
        for module, training in modes.items():
            module.training = training


def device_of(target: Any, inputs: tuple[Any, ...]) -> torch.device:
    """The first device, other than the CPU, of the inputs or of the model's parameters."""
    tensors = [item for item in inputs if isinstance(item, torch.Tensor)]
    if isinstance(target, nn.Module):
        tensors += list(target.parameters())
    return next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))


def time_calls(
    target: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device, repeats: int, min_time: float
) -> list[float]:
    """Seconds of single calls, until there are ``repeats`` and ``min_time`` seconds are over; synchronised where they only
    enqueue their work (an accelerator)."""
    wait = None if device.type == "cpu" else torch.accelerator.synchronize
    seconds: list[float] = []
    began = time.perf_counter()
    while True:
        if wait:
            wait(device)
        start = time.perf_counter_ns()
        target(*inputs)
        if wait:
            wait(device)
        end = time.perf_counter_ns()
        seconds.append((end - start) * 1e-9)
        if len(seconds) >= repeats and time.perf_counter() - began >= min_time:
            return seconds


def latency(
    model: Callable[..., Any],
    example_inputs: Any,
    threads: int | None = None,
    warmup: int = 10,
    repeats: int = 100,
    min_time: float = 0.5,
) -> LatencyReport:
    """Measures the time of ``model(*example_inputs)``.

    A module is timed in eval mode, without gradients, and has its modes back afterwards; so has torch its threads. On
    CUDA devices each call is synchronised. For comparisons use ``compare_latency``: two reports of this one differ by
    what the machine did meanwhile.

    Args:
        model: an ``nn.Module`` or any callable.
        example_inputs: a tensor or a tuple of tensors, batch first; the time is that of the whole batch.
        threads: of torch; None leaves them.
        warmup: calls before the clock counts.
        repeats: timed calls, at least.
        min_time: seconds of timed calls, at least.

    Raises:
        PrecutError: for arguments of the wrong kind.
    """
    inputs = as_inputs(example_inputs)
    whole("warmup", warmup, 0)
    whole("repeats", repeats)
    real("min_time", min_time, 0, finite=True, what="number of seconds")
    device = device_of(model, inputs)
    with ready(model, "latency") as target, prepared(threads) as used:
        for _ in range(warmup):
            target(*inputs)
        seconds = time_calls(target, inputs, device, repeats, min_time)
        where = environment(device)
    return LatencyReport(tuple(seconds), batch_of(inputs), warmup, used, where)
