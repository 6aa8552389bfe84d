"""A table of named things. Registering is the one line that a new model, score or recipe needs: lists, the command
line, the docs and the tests are all driven from here."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from precut.errors import PrecutError, unknown

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to entries, in order of registration.

    Args:
        kind: what the entries are, in the singular; used in messages.
        see: the call that lists the names; used in messages.
    """

    def __init__(self, kind: str, see: str) -> None:
        self.kind = kind
        self.see = see
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that adds what it decorates under ``name``."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise PrecutError(f"{self.kind} {name!r} is registered already; choose another name")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown(self.kind, name, self._entries, self.see) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def names(self, pattern: str = "*") -> list[str]:
        """Every name that matches the glob ``pattern``, sorted."""
        return sorted(name for name in self._entries if fnmatch.fnmatchcase(name, pattern))
