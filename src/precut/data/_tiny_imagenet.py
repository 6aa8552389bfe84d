"""Tiny-ImageNet in its official layout, as a folder or the zip archive.

``wnids.txt`` lists the classes, ``train/<wnid>/images/`` has the training pictures, ``val/images/`` those to test on
(the official test split has no labels), whose classes stand in ``val/val_annotations.txt``: read as a folder per class
they would all be of one class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from precut.data._folder import FolderPart, TreePart
from precut.data._source import Source
from precut.data._tree import FolderTree, Tree, ZipTree
from precut.errors import PrecutError, unknown

__all__ = ["find"]

_ANNOTATIONS = "val/val_annotations.txt"


def find(place: Path) -> Source | None:
    tree: Tree
    if place.is_file():
        if not place.name.startswith("tiny-imagenet") or place.suffix != ".zip":
            return None
        tree = ZipTree(place, f"{place.stem}/")
    elif (place / "wnids.txt").is_file():
        tree = FolderTree(place)
    else:
        return None
    return Source("Tiny-ImageNet", str(place), TrainPart(tree), ValidationPart(tree))


def _wnids(tree: Tree) -> tuple[str, ...]:
    classes = tuple(sorted(tree.read("wnids.txt").decode("utf-8", "replace").split()))
    if not classes:
        raise PrecutError(f"{tree.place / 'wnids.txt'}: names no class")
    return classes


@dataclass(frozen=True)
class TrainPart(TreePart):
    """The training pictures."""

    tree: Tree

    def entries(self, classes: tuple[str, ...] | None) -> tuple[list[str], list[int], tuple[str, ...]]:
        classes = classes or _wnids(self.tree)
        present = self.tree.folders("train")
        for wnid in classes:
            if wnid not in present:
                raise PrecutError(f"{self.tree.place / 'train' / wnid}: missing, and wnids.txt names this class")
        return FolderPart(self.tree, "train").entries(classes)


@dataclass(frozen=True)
class ValidationPart(TreePart):
    """The validation pictures."""

    tree: Tree

    @property
    def files(self) -> list[Path]:
        return [*super().files, *self.tree.paths(["wnids.txt", _ANNOTATIONS])]

    def entries(self, classes: tuple[str, ...] | None) -> tuple[list[str], list[int], tuple[str, ...]]:
        classes = classes or _wnids(self.tree)
        number = {wnid: label for label, wnid in enumerate(classes)}
        where = self.tree.place / _ANNOTATIONS
        names: list[str] = []
        labels: list[int] = []
        for row, line in enumerate(self.tree.read(_ANNOTATIONS).decode("utf-8", "replace").splitlines(), 1):
            fields = line.split("\t")
            if len(fields) < 2:
                raise PrecutError(f"{where}, line {row}: {line!r}; expected a file and its class, with a tab between")
            if fields[1] not in number:
                raise PrecutError(f"{where}, line {row}: {unknown('class', fields[1], classes)}")
            names.append(f"val/images/{fields[0]}")
            labels.append(number[fields[1]])
        if not names:
            raise PrecutError(f"{where}: the split is empty; expected a line a picture")
        return names, labels, classes
