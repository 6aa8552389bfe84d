"""What the user sees while training runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Progress", "make_progress"]


class Progress(Protocol):
    """Where a run tells how it goes."""

    def advance(self, steps: int) -> None:
        """So many steps more are done."""

    def note(self, text: str) -> None:
        """A line for the user."""

    def close(self) -> None:
        """No more will come."""


class Silent:
    """Tells nothing."""

    def advance(self, steps: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """Plain lines on standard error, for logs and pipes."""

    def advance(self, steps: int) -> None:
        pass

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Bar:
    """A bar on standard error, with the lines above it."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("training", total=total)
        self._bar.start()

    def advance(self, steps: int) -> None:
        self._bar.advance(self._task, steps)

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._bar.stop()


def make_progress(enabled: bool, total: int) -> Progress:
    """A bar on a terminal, lines elsewhere, silence if not ``enabled``."""
    if not enabled:
        return Silent()
    return Bar(total) if sys.stderr.isatty() else Lines()


def describe(row: Mapping[str, Any], epochs: int) -> str:
    """One epoch's row as a line."""
    parts = [
        f"epoch {row['epoch']}/{epochs}",
        f"train loss {row['train_loss']:.4f}",
        f"accuracy {100 * row['train_accuracy']:.2f} %",
    ]
    if row["val_accuracy"] is not None:
        parts += [f"validation loss {row['val_loss']:.4f}", f"accuracy {100 * row['val_accuracy']:.2f} %"]
    return "  ".join([*parts, f"{row['seconds']:.1f} s"])
