"""A split (images and labels), a dataset (two splits and what is known of them), and class-balanced parts of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from precut.errors import PrecutError

if TYPE_CHECKING:
    from precut.data._lazy import LazySplit

__all__ = ["Dataset", "Split"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images that are all in memory, with their classes.

    Attributes:
        images: uint8 of shape (N, C, H, W).
        labels: int64 of shape (N,), each in 0..classes-1.
        name: what messages call it ("cifar10 train").
    """

    images: Tensor
    labels: Tensor
    name: str = "split"

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise PrecutError(
                f"{self.name}: images are {self.images.dtype} of shape {tuple(self.images.shape)}; "
                "expected torch.uint8 of shape (N, C, H, W)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise PrecutError(
                f"{self.name}: labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; "
                f"expected torch.int64 of shape ({len(self.images)},)"
            )
        if len(self.labels) == 0:
            raise PrecutError(f"{self.name}: the split is empty; expected at least one image")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self)} images of {'x'.join(map(str, self.image_shape))})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def subset(self, index: Tensor, name: str | None = None) -> Split:
        """The images at ``index`` (int64 of shape (n,)), copied, in that order."""
        return Split(self.images[index], self.labels[index], name or self.name)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train and to test on.

    Attributes:
        name: the name it was loaded by.
        train: the training split.
        test: the test split; nothing here ever mixes it with the training split.
        classes: one name a label, in order of label.
        mean: one a channel, on the 0..1 scale; subtracted by :class:`BatchLoader`.
        std: one a channel, on the 0..1 scale; divided by.
        source: the files (or the hub's repository) that it came from.
    """

    name: str
    train: Split | LazySplit
    test: Split | LazySplit
    classes: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = field(default="", compare=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.image_shape

    def split_validation(
        self, count: int | None = None, fraction: float | None = None, seed: int = 0
    ) -> tuple[Split | LazySplit, Split | LazySplit]:
        """Part the training split in two: what to train on, and what to choose the best epoch by.

        Every class gives its share, rounded so that the sizes add up. The parting depends only on the labels,
        ``count`` and ``seed``; the order of the images is kept; the test split is not touched.

        Args:
            count: images to validate on. Give this or ``fraction``.
            fraction: the same as a share of the training split, between 0 and 1.
            seed: which images are drawn.
        """
        if (count is None) == (fraction is None):
            raise PrecutError(
                f"split_validation got count={count} and fraction={fraction}; expected exactly one of the two"
            )
        return hold_out(self.train, count, fraction, seed, f"{self.name} validation")

    def take(self, n_per_class: int, seed: int = 0, test_per_class: int | None = None) -> Dataset:
        """A smaller dataset with ``n_per_class`` training images of every class, drawn by ``seed``.

        The test split stays whole unless ``test_per_class`` says how many of its images to keep, a class. It has a name
        of its own, so that nobody takes the whole dataset's validation images for images that were held out here.

        Raises:
            PrecutError: a class has fewer images.
        """
        train = _take(self.train, n_per_class, seed, self.classes)
        test = self.test if test_per_class is None else _take(self.test, test_per_class, seed, self.classes)
        return replace(self, name=f"{self.name}, {n_per_class} of each class", train=train, test=test)


def hold_out(
    split: Split | LazySplit, count: int | None, fraction: float | None, seed: int, name: str
) -> tuple[Split | LazySplit, Split | LazySplit]:
    """The rest of ``split``, and ``count`` images of it (or that ``fraction``), a fair share of every class."""
    total = len(split)
    asked = f"count={count}" if count is not None else f"fraction={fraction}"
    if count is None:
        assert fraction is not None
        count = round(fraction * total)
    if not 0 < count < total:
        raise PrecutError(
            f"cannot hold out {asked} of the {total} images of {split.name}; expected between 1 and {total - 1} images"
        )
    chosen = balanced_part(split.labels, _shares(split.labels, count), seed)
    return split.subset((~chosen).nonzero().flatten()), split.subset(chosen.nonzero().flatten(), name)


def balanced_part(labels: Tensor, per_class: Tensor, seed: int) -> Tensor:
    """A bool mask over ``labels`` that is true for ``per_class[c]`` images of each class c, drawn by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, amount in enumerate(per_class.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:amount]]] = True
    return chosen


def _shares(labels: Tensor, count: int) -> Tensor:
    """How many of ``count`` images each class gives: in proportion to its size, by largest remainders."""
    sizes = torch.bincount(labels)
    quota = sizes * count  # in units of 1/len(labels), so that nothing is rounded before the comparison
    shares = quota // len(labels)
    by_remainder = torch.argsort(quota % len(labels), descending=True, stable=True)
    shares[by_remainder[: count - int(shares.sum())]] += 1
    return shares


def _take(split: Split | LazySplit, amount: int, seed: int, classes: list[str]) -> Split | LazySplit:
    if amount < 1:
        raise PrecutError(f"take got {amount} images a class; expected at least 1")
    sizes = torch.bincount(split.labels, minlength=len(classes))
    if amount > int(sizes.min()):
        scarce = int(sizes.argmin())
        raise PrecutError(
            f"take got {amount} images a class, but {split.name} has {int(sizes[scarce])} of class "
            f"{classes[scarce]!r}; take at most {int(sizes[scarce])}"
        )
    chosen = balanced_part(split.labels, torch.full((len(classes),), amount), seed)
    return split.subset(chosen.nonzero().flatten())
