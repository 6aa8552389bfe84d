"""Reading the JSON files that profiles and frontiers are kept in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from precut.errors import PrecutError

__all__ = ["intact", "read_document"]


def read_document(path: Path, form: str, what: str, hint: str = "") -> dict[str, Any]:
    """The mapping in a file of the format ``form``.

    Args:
        what: it is, and ``hint``, where one comes from, for messages.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PrecutError(f"there is no {what} {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise PrecutError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != form:
        raise PrecutError(f"{str(path)!r} is not a {what} (format {form!r}){hint}")
    return data


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Within, what such a file lacks, or has in another form, is told as its damage."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PrecutError(f"{str(path)!r} is damaged or was written by hand: {type(error).__name__} {error}") from None
