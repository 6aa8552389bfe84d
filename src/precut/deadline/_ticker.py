"""What the user sees while something long runs."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Ticker"]

_EVERY_S = 10.0  # between lines where there is no terminal


class Ticker:
    """A bar on a terminal, a line now and then elsewhere; on standard error. Use it as a context manager.

    Args:
        label: what is done.
        total: steps.
        enabled: False shows nothing.
    """

    def __init__(self, label: str, total: int, enabled: bool = True) -> None:
        self.label = label
        self.total = total
        self.enabled = enabled
        self.done = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Ticker:
        if self.enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn(self.label),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.label, total=self.total)
            self._bar.start()
        return self

    def step(self, steps: int = 1) -> None:
        """So many steps more are done."""
        self.done += steps
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)
        elif self.enabled and time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            print(f"{self.label}: {self.done} of {self.total}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
