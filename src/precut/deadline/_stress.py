"""CPU stressors: other processes that take the processor away, on command."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

from precut.errors import whole

__all__ = ["Stressors"]

# Told by its standard input: "1" spin, "0" rest; it ends when the pipe does, so it never outlives its parent.
_SPIN = """
import os, select
on = False
while True:
    if not on or select.select([0], [], [], 0)[0]:
        told = os.read(0, 1)
        if not told:
            break
        on = told == b"1"
        continue
    for _ in range(20000):
        pass
"""


class Stressors:
    """``count`` processes that each keep a core busy while switched on. Use it as a context manager; off at first."""

    def __init__(self, count: int = 1) -> None:
        self.count = whole("count", count, 0)
        self.on = False
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Stressors:
        for _ in range(self.count):
            self._processes.append(subprocess.Popen([sys.executable, "-S", "-c", _SPIN], stdin=subprocess.PIPE))
        return self

    def switch(self, on: bool) -> None:
        """Spin, or rest."""
        self.on = on
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"1" if on else b"0")
            process.stdin.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            process.wait()
        self._processes.clear()
