"""Nested arguments and results: what holds tensors in a call, walked and rebuilt."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["leaves", "rebuild"]


def rebuild(item: Any, convert: Callable[[Any], Any]) -> Any:
    """A copy of ``item`` in which ``convert`` replaced every leaf. Containers are tuples (named ones too), lists,
    dicts, slices and dataclass instances; a ``torch.Size`` becomes a plain tuple."""
    if isinstance(item, torch.Size):
        return tuple(convert(part) for part in item)
    if isinstance(item, tuple):
        parts = [rebuild(part, convert) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else tuple(parts)
    if isinstance(item, list):
        return [rebuild(part, convert) for part in item]
    if isinstance(item, dict):
        parts_by_key = {key: rebuild(part, convert) for key, part in item.items()}
        if type(item) is dict:
            return parts_by_key
        made = copy.copy(item)  # an OrderedDict, or an output record that is a dict
        for key, part in parts_by_key.items():
            made[key] = part
        return made
    if isinstance(item, slice):
        return slice(convert(item.start), convert(item.stop), convert(item.step))
    if dataclasses.is_dataclass(item) and not isinstance(item, type) and _is_record(item):
        record: Any = copy.copy(item)
        for field in dataclasses.fields(item):
            object.__setattr__(record, field.name, rebuild(getattr(item, field.name), convert))
        return record
    return convert(item)


def _is_record(item: Any) -> bool:
    """Whether a dataclass instance is a container of results rather than one of this room's own leaves."""
    return not type(item).__module__.startswith("precut.graph")


def leaves(item: Any) -> Iterator[Any]:
    """Every leaf, in order."""
    found: list[Any] = []

    def keep(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    rebuild(item, keep)
    return iter(found)
