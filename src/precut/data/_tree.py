"""Named files below one place: a folder, or a zip archive that is read without being unpacked."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from precut.errors import PrecutError

__all__ = ["FolderTree", "Tree", "TreeEncodings", "ZipTree", "is_picture"]

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def is_picture(name: str) -> bool:
    return name.lower().endswith(_PICTURES)


class Tree(Protocol):
    """Files by their names relative to the place, with ``/`` between the parts."""

    @property
    def place(self) -> Path: ...

    def names(self, folder: str) -> list[str]:
        """Every file at any depth below ``folder``, sorted. What starts with a dot is left out."""
        ...

    def folders(self, folder: str) -> list[str]:
        """The last parts of the names of the folders directly in ``folder``, sorted."""
        ...

    def read(self, name: str) -> bytes: ...

    def paths(self, names: Sequence[str]) -> list[Path]:
        """The real files that hold these."""
        ...


@dataclass(frozen=True)
class FolderTree:
    """The files below a folder."""

    place: Path

    def names(self, folder: str) -> list[str]:
        found: list[str] = []
        for directory, below, files in os.walk(self.place / folder):
            below[:] = [name for name in below if not name.startswith(".")]
            relative = Path(directory).relative_to(self.place).as_posix()
            found.extend(f"{relative}/{name}" for name in files if not name.startswith("."))
        return sorted(found)

    def folders(self, folder: str) -> list[str]:
        path = self.place / folder
        if not path.is_dir():
            return []
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    def read(self, name: str) -> bytes:
        try:
            return (self.place / name).read_bytes()
        except OSError as error:
            raise PrecutError(f"{self.place / name}: cannot be read ({error.strerror or error})") from error

    def paths(self, names: Sequence[str]) -> list[Path]:
        return [self.place / name for name in names]


@dataclass(frozen=True)
class ZipTree:
    """The files of a zip archive; ``inside`` is the folder in it that everything is relative to ("" or "name/")."""

    place: Path
    inside: str = ""

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.place)
        except (zipfile.BadZipFile, OSError) as error:
            raise PrecutError(f"{self.place}: damaged archive ({error})") from error

    @cached_property
    def _every(self) -> list[str]:
        start = len(self.inside)
        return sorted(name[start:] for name in self._archive.namelist() if name.startswith(self.inside))

    def names(self, folder: str) -> list[str]:
        return [name for name in self._every if name.startswith(f"{folder}/") and not name.endswith("/")]

    def folders(self, folder: str) -> list[str]:
        parts = {
            name[len(folder) + 1 :].split("/", 1)[0]
            for name in self._every
            if name.count("/") > folder.count("/") + 1 and name.startswith(f"{folder}/")
        }
        return sorted(parts)

    def read(self, name: str) -> bytes:
        try:
            return self._archive.read(self.inside + name)
        except (KeyError, zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
            raise PrecutError(f"{self.place}: {name} cannot be read ({error})") from error

    def paths(self, names: Sequence[str]) -> list[Path]:
        return [self.place]


@dataclass(frozen=True)
class TreeEncodings:
    """Some pictures of a tree, by position."""

    tree: Tree
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        return self.tree.read(self.names[index])

    def where(self, index: int) -> str:
        return f"{self.tree.place / self.names[index]}"
