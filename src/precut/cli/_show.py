"""What commands print: results on standard output, how it goes on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["say", "show"]


def show(text: object, data: Any, as_json: bool) -> None:
    """Prints ``data`` as JSON, or else ``text``."""
    from precut.report import plain

    print(json.dumps(plain(data), indent=2, allow_nan=False) if as_json else text)


def say(text: str) -> None:
    """A line about the progress."""
    print(text, file=sys.stderr, flush=True)
