"""An operating point: which subnet of a dynamic network runs, as a small immutable value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from precut.errors import PrecutError

__all__ = ["Point"]

_FIELDS = ("space", "widths", "skipped", "resolution", "kss")


@dataclass(frozen=True)
class Point:
    """One subnet. Immutable, hashable, and JSON-able (``to_dict``); made and checked by a dynamic network.

    Attributes:
        space: fingerprint of the space of subnets that it belongs to.
        widths: (dimension, channels) for every width dimension, sorted.
        skipped: names of the residual blocks that are left out, sorted.
        resolution: side of the images in pixels; None leaves them as they come.
        kss: (layer, kernel support size) for the layers that keep fewer weights a kernel than the full network, sorted.
    """

    space: str
    widths: tuple[tuple[str, int], ...]
    skipped: tuple[str, ...] = ()
    resolution: int | None = None
    kss: tuple[tuple[str, int], ...] = ()
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("widths", "skipped", "kss"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        parts = (self.space, self.widths, self.skipped, self.resolution, self.kss)
        object.__setattr__(self, "_hash", hash(parts))  # once: switching points looks them up

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:  # strings hash differently in every process
        return Point, (self.space, self.widths, self.skipped, self.resolution, self.kss)

    def width(self, name: str) -> int:
        """Channels of one dimension."""
        return dict(self.widths)[name]

    def within(self, other: Point) -> bool:
        """Whether this subnet's weights are all weights of ``other``, at a resolution that is not higher."""
        mine, theirs = dict(self.kss), dict(other.kss)
        return (
            self.space == other.space
            and all(a <= b for (_, a), (_, b) in zip(self.widths, other.widths, strict=True))
            and set(self.skipped) >= set(other.skipped)
            and (other.resolution is None or (self.resolution is not None and self.resolution <= other.resolution))
            and all(name in mine and mine[name] <= size for name, size in theirs.items())
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data; :meth:`from_dict` takes it back."""
        return {
            "space": self.space,
            "widths": dict(self.widths),
            "skipped": list(self.skipped),
            "resolution": self.resolution,
            "kss": dict(self.kss),
        }

    def to_json(self) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Any) -> Point:
        """The point that ``to_dict`` described. A dynamic network checks it when it is used.

        Raises:
            PrecutError: for anything else.
        """
        if not isinstance(data, Mapping) or set(data) != set(_FIELDS):
            raise PrecutError(f"a point is a mapping with the fields {list(_FIELDS)}; got {data!r:.80}")
        space, skipped, resolution = data["space"], data["skipped"], data["resolution"]
        tables = [data["widths"], data["kss"]]
        sizes = [size for table in tables if isinstance(table, Mapping) for size in table.values()]
        if (
            not isinstance(space, str)
            or not all(isinstance(table, Mapping) for table in tables)
            or not isinstance(skipped, (list, tuple))
            or not all(isinstance(name, str) for name in [*skipped, *(key for table in tables for key in table)])
            or not all(_whole(size) for size in [*sizes, 1 if resolution is None else resolution])
        ):
            raise PrecutError(f"this is no point: {dict(data)!r:.120}")
        return cls(space, tuple(data["widths"].items()), tuple(skipped), resolution, tuple(data["kss"].items()))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
