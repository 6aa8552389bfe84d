"""A search whose candidates cost milliseconds: a closed form instead of a training."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from precut.deadline._candidate import Measured, Rejected, Report

SPACE = {"depth": [1, 2, 3, 4], "width": [1, 2, 3], "kind": ["a", "b"]}


def accuracy_of(candidate: Mapping[str, Any]) -> float:
    return 1 - 1 / (1 + candidate["depth"] * candidate["width"] + (candidate["kind"] == "b"))


def seconds_of(candidate: Mapping[str, Any]) -> float:
    return 1e-3 * candidate["depth"] * candidate["width"] * (2 if candidate["kind"] == "b" else 1)


def evaluate(candidate: Mapping[str, Any], settings: Mapping[str, Any], folder: Path, report: Report) -> Measured:
    """Writes one line for each time that it is begun in its folder, so that tests see what was begun again."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "begun").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if candidate["kind"] == "b" and candidate["depth"] == 4:
        raise Rejected("b cannot be that deep")
    if settings.get("fails"):
        raise RuntimeError("no luck")
    seconds = seconds_of(candidate)
    report(0.0, seconds)
    time.sleep(settings.get("sleep", 0.0))
    early = accuracy_of(candidate) / 2
    report(1 / 3, 0.5 - early if settings.get("dearer is worse") else early)
    time.sleep(settings.get("sleep", 0.0))
    (folder / "ended").write_text("yes")
    return Measured(seconds, accuracy_of(candidate), {"run": str(folder)})
