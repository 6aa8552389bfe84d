"""The table of native kernels, as the library itself tells it."""

from __future__ import annotations

from precut.runtime._lib import library

__all__ = ["ops_table"]


def ops_table() -> list[dict[str, str]]:
    """Every kernel of the native library: name, operation, support, instruction set, whether this CPU runs it."""
    lines = str(library().precut_ops_table().decode()).splitlines()
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]
