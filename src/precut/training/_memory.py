"""Memory that a step frees stays with the process for the next step.

A step makes and frees the same tensors over and over. glibc gives every large one back to the system at once, which clears
its pages anew at the next step. Two trainings side by side were slowed by that; one alone on an idle machine hardly is:
results/training-speed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

__all__ = ["kept_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
# What glibc itself comes to once a process has freed a tensor of 32 MB (DEFAULT_MMAP_THRESHOLD_MAX, and twice that).
_USUAL = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
_KEEPING = ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, -1))
_depth = 0


@lru_cache(maxsize=1)
def _libc() -> Any:
    """The C library where it is glibc, else None."""
    try:
        found = ctypes.CDLL(None)
        return found if found.gnu_get_libc_version and found.mallopt and found.malloc_trim else None
    except (OSError, AttributeError, TypeError):
        return None


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within, freed memory is kept for the next allocation; afterwards it goes back to the system.

    ``fit`` does this by itself; it is for training loops of your own, on a CPU, around all epochs. It holds for the whole
    process. Where the C library is not glibc nothing happens.
    """
    global _depth
    libc = _libc()
    if libc is None:
        yield
        return
    _depth += 1
    if _depth == 1:
        for parameter, value in _KEEPING:
            libc.mallopt(parameter, value)
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            for parameter, value in _USUAL:
                libc.mallopt(parameter, value)
            libc.malloc_trim(0)
