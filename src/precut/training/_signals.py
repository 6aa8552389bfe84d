"""Stopping at a step's end when the user, or the machine's scheduler, asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopRequest", "TrainingInterrupted"]


class TrainingInterrupted(KeyboardInterrupt):
    """Training was asked to stop (Ctrl-C or SIGTERM) and did so; the message says how to go on.

    It is a KeyboardInterrupt: no error, and nothing that ``except Exception`` may swallow.

    Attributes:
        signal: number of the signal; a command exits with 128 + this.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal = signal_number


class StopRequest:
    """Within it, the first SIGINT or SIGTERM is only noted in ``received``; a second one acts as it did before.

    Outside the main thread Python lets nobody set handlers; signals then act as usual.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
