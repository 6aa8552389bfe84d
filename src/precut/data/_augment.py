"""Random crops, flips and cutouts for a whole batch at once, on the device that the batch lies on.

Drawing and applying are apart: the draws of an epoch are made once, for every image, from one generator. So what an
image goes through depends on the seed and the epoch alone, and not on the batch size or the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from precut.errors import PrecutError, unknown, whole

__all__ = ["Augment"]

_PAD_MODES = ("reflect", "zeros")


@dataclass(frozen=True)
class Draws:
    """What was drawn for each image; a field is None where its augmentation is off."""

    top: Tensor | None = None  # (n,) int64: first row of the window in the padded image
    left: Tensor | None = None  # (n,) int64: first column of the window
    flip: Tensor | None = None  # (n,) bool
    cut_row: Tensor | None = None  # (n,) int64: centre of the square that is blanked
    cut_column: Tensor | None = None  # (n,) int64
    area: Tensor | None = None  # (n, 4) float32 in 0..1: area, aspect, row and column of the part that is enlarged

    def __getitem__(self, index: Tensor) -> Draws:
        return Draws(**{f.name: None if (v := getattr(self, f.name)) is None else v[index] for f in fields(self)})

    def to(self, device: torch.device) -> Draws:
        return Draws(**{f.name: None if (v := getattr(self, f.name)) is None else v.to(device) for f in fields(self)})


@dataclass(frozen=True)
class Augment:
    """What to do to training images at random. All of it is off by default.

    Attributes:
        crop_padding: pixels added on every side before a random window of the old size is cut out.
        flip: mirror left and right, every second image on average.
        cutout: side of the square of pixels that is set to the mean colour; its centre is anywhere in the image and
            what sticks out is lost (DeVries and Taylor 2017, arXiv 1708.04552).
        pad_mode: what the crop's padding is filled with: "reflect" (mirrored pixels) or "zeros" (black).
        area: (smallest, largest) share of the picture that is cut out, with an aspect ratio between 3/4 and 4/3, and
            enlarged to the wanted size (Szegedy et al. 2015, arXiv 1409.4842). Only for images that are decoded while
            training (:class:`LazySplit`): the small ones in memory have no pixels to spare.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    pad_mode: str = "reflect"
    area: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            whole(f"{name} (pixels)", getattr(self, name), 0)
        if self.pad_mode not in _PAD_MODES:
            raise unknown("pad_mode", self.pad_mode, _PAD_MODES)
        if self.area is not None and not 0 < self.area[0] <= self.area[1] <= 1:
            raise PrecutError(
                f"Augment got area={self.area}; expected (smallest, largest) with 0 < smallest <= largest <= 1"
            )

    def check(self, height: int, width: int) -> None:
        """Raise a PrecutError if images of this size cannot be augmented so."""
        if self.pad_mode == "reflect" and self.crop_padding >= min(height, width):
            raise PrecutError(
                f"Augment got crop_padding={self.crop_padding} with pad_mode='reflect' for images of {height}x{width}; "
                f"expected at most {min(height, width) - 1}, or pad_mode='zeros'"
            )

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Draw for ``count`` images from ``generator`` (on the CPU)."""

        def whole(high: int) -> Tensor:
            return torch.randint(high, (count,), generator=generator)

        top = left = flip = cut_row = cut_column = area = None
        if self.crop_padding:
            top, left = whole(2 * self.crop_padding + 1), whole(2 * self.crop_padding + 1)
        if self.flip:
            flip = whole(2).bool()
        if self.cutout:
            cut_row, cut_column = whole(height), whole(width)
        if self.area is not None:
            area = torch.rand(count, 4, generator=generator)
        return Draws(top, left, flip, cut_row, cut_column, area)

    def crop_and_flip(self, images: Tensor, draws: Draws) -> Tensor:
        """Crop and flip a batch (B, C, H, W) of any dtype; ``draws`` has one entry an image."""
        if draws.top is not None and draws.left is not None:
            images = _windows(_pad(images, self.crop_padding, self.pad_mode), images.shape, draws.top, draws.left)
        if draws.flip is not None:
            images = torch.where(draws.flip[:, None, None, None], images.flip(3), images)
        return images

    def cut_out_(self, images: Tensor, draws: Draws) -> Tensor:
        """Set a square of every image to zero, in place: after normalisation zero is the mean colour."""
        if draws.cut_row is None or draws.cut_column is None:
            return images
        height, width = images.shape[2:]
        rows = _band(draws.cut_row, self.cutout, height)
        columns = _band(draws.cut_column, self.cutout, width)
        return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _pad(images: Tensor, padding: int, mode: str) -> Tensor:
    """Pad height and width on both sides. torch's reflection padding does not know uint8, so the rows and columns are
    picked by index."""
    height, width = images.shape[2:]
    if mode == "zeros":
        padded = images.new_zeros(*images.shape[:2], height + 2 * padding, width + 2 * padding)
        padded[:, :, padding : padding + height, padding : padding + width] = images
        return padded
    rows, columns = (
        (torch.arange(-padding, size + padding, device=images.device).abs() - (size - 1)).abs().neg() + (size - 1)
        for size in (height, width)
    )
    return images.index_select(2, rows).index_select(3, columns)


def _windows(padded: Tensor, shape: torch.Size, top: Tensor, left: Tensor) -> Tensor:
    """From each padded image the window of ``shape``'s height and width whose corner is at (top, left)."""
    every = torch.arange(len(padded), device=padded.device)
    return padded.unfold(2, shape[2], 1).unfold(3, shape[3], 1)[every, :, top, left]


def _band(centre: Tensor, length: int, size: int) -> Tensor:
    """(B, size) bool: the ``length`` pixels around each centre that lie inside the image."""
    start = (centre - length // 2)[:, None]
    position = torch.arange(size, device=centre.device)[None]
    return (position >= start) & (position < start + length)
