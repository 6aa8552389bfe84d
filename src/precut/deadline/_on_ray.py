"""Workers of a search as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from precut.deadline._study import Plan, work
from precut.errors import PrecutError

__all__ = ["run_on_ray"]

_LOOK_S = 1.0


def _knock(address: str) -> None:
    """Ray itself waits for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise PrecutError(f"there is no Ray cluster at {address!r}: {error.strerror or error}") from None


def run_on_ray(plan: Plan, workers: int, address: str, tell: Callable[[], None]) -> None:
    """Runs ``workers`` workers on the cluster at ``address`` ("auto" for the one of this machine) until the study is done.

    A task whose node is lost starts again on another; the trial that it worked on goes on when its heartbeat has been
    silent for long enough, as with any other worker. The database and the runs' folder must be reached from every node.
    """
    try:
        import ray
    except ImportError:
        raise PrecutError("--ray needs Ray, which is not installed: pip install 'precut[ray]'") from None
    started = not ray.is_initialized()
    if started:
        _knock(address)
        try:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PrecutError(f"there is no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from None
    threads = plan.settings.get("threads", 1)

    def one(fields: dict[str, Any], number: int) -> int:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        return work(Plan(**fields), number)

    try:
        remote = ray.remote(num_cpus=threads, max_retries=-1)(one)
        waiting = [remote.remote(asdict(plan), number) for number in range(workers)]
        while waiting:
            finished, waiting = ray.wait(waiting, timeout=_LOOK_S)
            ray.get(finished)
            tell()
    except ray.exceptions.RayTaskError as error:
        raise PrecutError(f"a worker on the Ray cluster failed: {error.cause}") from None
    finally:
        if started:
            ray.shutdown()
