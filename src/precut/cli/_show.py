"""What commands print: results on standard output, how it goes on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["say", "show"]


def show(text: object, data: Any, as_json: bool) -> None:
    """Prints ``data`` as JSON, or else ``text``."""
    print(json.dumps(data, indent=2) if as_json else text)


def say(text: str) -> None:
    """A line about the progress."""
    print(text, file=sys.stderr, flush=True)
