"""Printed output held to a file beside the test; refreshed by PRECUT_OVERWRITE_GOLDEN=1, then read the diff."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["check_golden"]


def check_golden(text: str, path: Path) -> None:
    """Asserts that ``text`` is what ``path`` holds."""
    if os.environ.get("PRECUT_OVERWRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        return
    assert path.exists(), f"no golden file {path}; make it with PRECUT_OVERWRITE_GOLDEN=1"
    assert text + "\n" == path.read_text(encoding="utf-8")
