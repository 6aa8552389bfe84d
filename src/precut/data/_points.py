"""Points on a line or in a plane whose class alternates between segments: the synthetic data of Bhardwaj, Li, Marculescu
(CVPR 2021, arXiv 1910.00780), made when they are loaded."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from precut.data._dataset import Dataset, Split
from precut.errors import PrecutError, whole

__all__ = ["LISTED", "PointSplit", "is_made", "made", "segments"]

_RANGE = 100.0  # of the line's numbers, and of the radius
_BINS = 120
SHAPES = ("linear", "circle")
LISTED = tuple(f"{shape}-{count}" for shape in SHAPES for count in (20, 30, 40))
_NAME = re.compile(r"(linear|circle)-([0-9]+)")


@dataclass(frozen=True, eq=False)
class PointSplit(Split):
    """Points that are all in memory, as images of one pixel: ``images`` is float32 of shape (N, features, 1, 1)."""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.float32 or self.images.shape[2:] != (1, 1):
            raise PrecutError(
                f"{self.name}: points are {self.images.dtype} of shape {tuple(self.images.shape)}; "
                "expected torch.float32 of shape (N, features, 1, 1)"
            )

    def subset(self, index: Tensor, name: str | None = None) -> PointSplit:
        """The points at ``index`` (int64 of shape (n,)), copied, in that order."""
        return PointSplit(self.images[index], self.labels[index], name or self.name)


def segments(shape: str = "linear", count: int = 20, train: int = 12_000, test: int = 1_200, seed: int = 0) -> Dataset:
    """Points of two classes that alternate over ``count`` equal segments.

    "linear": both features are one number, uniform in each of 120 equal bins of 0 to 100. "circle": a point of the
    plane at a uniform angle, its radius normal around the middle of one of those bins with half a bin's width as
    deviation, cut off at the bin's ends; segments are rings. Every bin holds equally many points. Classes are exact: the
    published code takes them from a point's place in the list, which is the same where ``count`` divides 120.

    Args:
        shape: "linear" or "circle".
        count: segments, 2 to 120; 20 to 40 in the paper.
        train, test: points, in whole bins: multiples of 120.
        seed: of a generator of its own; training and test points come from one stream.

    Returns:
        A dataset of float points in the shape of images (N, 2, 1, 1); its ``mean`` and ``std`` are those of the
        training points, divided by 255 as for images, so that every loader normalises them.
    """
    if shape not in SHAPES:
        raise PrecutError(f"shape must be 'linear' or 'circle'; got {shape!r}")
    whole("count", count, 2, _BINS)
    for name, points in (("train", train), ("test", test)):
        if whole(name, points) % _BINS:
            raise PrecutError(f"{name} must be a multiple of {_BINS}, the number of bins; got {points}")
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    label = f"{shape}-{count}"
    parts = [
        _points(shape, count, points, generator, f"{label} {which}")
        for which, points in (("train", train), ("test", test))
    ]
    values = parts[0].images.flatten(1).double()
    mean, std = (values.mean(0) / 255).tolist(), (values.std(0) / 255).tolist()
    return Dataset(label, parts[0], parts[1], ["even", "odd"], tuple(mean), tuple(std), "made when loaded")


def _points(shape: str, count: int, points: int, generator: torch.Generator, name: str) -> PointSplit:
    width = _RANGE / _BINS
    bins = torch.arange(_BINS, dtype=torch.float64).repeat_interleave(points // _BINS)
    if shape == "linear":
        along = (bins + torch.rand(points, generator=generator, dtype=torch.float64)) * width
        x = torch.stack([along, along], 1)
    else:
        along = (bins + 0.5 + 0.5 * _cut_off_normal(points, generator)) * width
        angle = 2 * math.pi * torch.rand(points, generator=generator, dtype=torch.float64)
        x = torch.stack([along * angle.cos(), along * angle.sin()], 1)
    labels = (along * count / _RANGE).floor().clamp(0, count - 1).long() % 2
    return PointSplit(x.float().view(-1, 2, 1, 1), labels, name)


def _cut_off_normal(count: int, generator: torch.Generator) -> Tensor:
    """Standard normals between -1 and 1: the others are drawn again."""
    drawn = torch.full((count,), 2.0, dtype=torch.float64)
    while (outside := drawn.abs() >= 1).any():
        drawn[outside] = torch.randn(int(outside.sum()), generator=generator, dtype=torch.float64)
    return drawn


def is_made(name: str) -> bool:
    """Whether a dataset's name is one of these: "linear-20", "circle-40" and so on."""
    return _NAME.fullmatch(name) is not None


def made(name: str) -> Dataset:
    """The dataset of this name."""
    found = _NAME.fullmatch(name)
    assert found is not None
    return segments(found[1], int(found[2]))
