"""Folders of pictures: ``train/<class>/...`` beside ``test/<class>/...`` (or ``val``), or ``<class>/...`` alone.

Classes are the names of the folders, in sorted order. Pictures may lie deeper, as in ``train/<class>/images/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from precut.data._decode import decode_all
from precut.data._source import TEST_NAMES, TRAIN_NAMES, Encodings, Loaded, Source, Wanted, labels_tensor
from precut.data._tree import FolderTree, Tree, TreeEncodings, is_picture
from precut.errors import PrecutError, unknown

__all__ = ["FolderPart", "TreePart", "find"]


def find(place: Path) -> Source | None:
    if place.is_file():
        return None
    tree = FolderTree(place)
    folders = tree.folders("")
    train, test = (next((n for n in names if n in folders), None) for names in (TRAIN_NAMES, TEST_NAMES))
    if train is not None or test is not None:
        return Source(
            "folder",
            str(place),
            FolderPart(tree, train) if train else None,
            FolderPart(tree, test) if test else None,
        )
    if any(is_picture(path.name) for pattern in ("*/*", "*/*/*") for path in place.glob(pattern)):
        return Source("folder", str(place), FolderPart(tree, "."), None)
    return None


class TreePart:
    """Pictures in a tree; a subclass says which, and of what class."""

    tree: Tree

    def entries(self, classes: tuple[str, ...] | None) -> tuple[list[str], list[int], tuple[str, ...]]:
        """Names of the pictures, their labels, and the class names (those given, if any are)."""
        raise NotImplementedError

    @property
    def files(self) -> Sequence[Path]:
        return self.tree.paths(self.entries(None)[0])

    def index(self, wanted: Wanted) -> tuple[Encodings, Tensor, tuple[str, ...]]:
        names, labels, classes = self.entries(wanted.classes)
        return TreeEncodings(self.tree, names), labels_tensor(labels), classes

    def load(self, wanted: Wanted) -> Loaded:
        encodings, labels, classes = self.index(wanted)
        items = ((encodings.read(i), encodings.where(i)) for i in range(len(encodings)))
        images = decode_all(items, len(encodings), wanted.channels, wanted.image_size, wanted.threads)
        return Loaded(images, labels, classes)


@dataclass(frozen=True)
class FolderPart(TreePart):
    """``folder`` has one folder a class."""

    tree: Tree
    folder: str

    def entries(self, classes: tuple[str, ...] | None) -> tuple[list[str], list[int], tuple[str, ...]]:
        here = self.tree.place / self.folder
        folders = self.tree.folders(self.folder)
        if not folders:
            raise PrecutError(f"{here}: no folders in it; expected one a class, with pictures")
        classes = classes or tuple(folders)
        names: list[str] = []
        labels: list[int] = []
        for folder in folders:
            if folder not in classes:
                raise PrecutError(f"{here / folder}: {unknown('class', folder, classes)}")
            found = [name for name in self.tree.names(f"{self.folder}/{folder}") if is_picture(name)]
            if not found:
                raise PrecutError(f"{here / folder}: no pictures in this class")
            names += found
            labels += [classes.index(folder)] * len(found)
        return names, labels, classes
