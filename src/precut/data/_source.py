"""What every reader of a format gives: parts that can be read, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precut.errors import PrecutError

__all__ = [
    "Encodings",
    "LazyPart",
    "Loaded",
    "Part",
    "Reader",
    "Source",
    "Wanted",
    "can_be_lazy",
    "check_label",
    "labels_tensor",
]

TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a part.

    Attributes:
        channels: 1 or 3; None for what the first picture has.
        image_size: side in pixels to bring every picture to; None to leave them.
        classes: the class names, where the files name classes and must keep to these.
        num_classes: labels must be below this.
        threads: decoding threads.
    """

    channels: int | None = None
    image_size: int | None = None
    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A part in memory: uint8 (N, C, H, W), int64 (N,), and the class names if the files tell them."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] | None = None


class Encodings(Protocol):
    """Picture files that can be read one by one, from several threads at once."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes: ...

    def where(self, index: int) -> str: ...


class Part(Protocol):
    """One split as it lies on disk (or on the hub), not read yet."""

    @property
    def files(self) -> Sequence[Path]:
        """Every file that the part depends on: what the cache watches."""
        ...

    def load(self, wanted: Wanted) -> Loaded: ...


class LazyPart(Part, Protocol):
    """A part whose pictures can also stay where they are."""

    def index(self, wanted: Wanted) -> tuple[Encodings, Tensor, tuple[str, ...]]:
        """The pictures, their labels (int64) and the class names."""
        ...


def can_be_lazy(part: Part) -> TypeGuard[LazyPart]:
    """Whether ``part`` has ``index``. (isinstance on a protocol would evaluate ``files``, which lists whole trees.)"""
    return callable(getattr(type(part), "index", None))


@dataclass(frozen=True)
class Source:
    """What a reader found at a place."""

    format: str
    place: str
    train: Part | None
    test: Part | None


Reader = Callable[[Path], "Source | None"]
"""Looks at a file or folder that exists; None if its format is another one."""


def check_label(label: object, num_classes: int | None, where: str) -> int:
    """A class number read from a file, or a PrecutError that says where it stands."""
    if not isinstance(label, int) or label < 0 or (num_classes is not None and label >= num_classes):
        expected = f"0 to {num_classes - 1}" if num_classes is not None else "0 or more"
        raise PrecutError(f"{where}: label {label}; expected a class number, {expected}")
    return label


def labels_tensor(labels: Sequence[int] | NDArray[np.integer]) -> Tensor:
    return torch.as_tensor(np.asarray(labels, dtype=np.int64))
