"""One worker of a search, as a process of its own: ``python -m precut.deadline._worker PLAN.json NUMBER``."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from precut.deadline._study import Plan, work
from precut.errors import PrecutError


def main(words: list[str]) -> int:
    """0 when the study is done, 2 when it cannot be worked on, 128 + the signal when stopped."""
    plan = Plan(**json.loads(Path(words[0]).read_text(encoding="utf-8")))
    number = int(words[1])
    # What the user killed must not train on alone; a worker belongs to the process that started it.
    # Not raised wherever it comes: a question to the database that is cut short keeps the database locked. Training
    # notices the signal by itself.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        work(plan, number, stopping=stop.is_set)
    except PrecutError as error:
        print(f"precut: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return 128 + int(getattr(stop, "signal", 2))
    return 0


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
