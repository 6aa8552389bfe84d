"""Splits that are too large for memory: pictures stay on disk and are decoded by threads ahead of the training."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precut.data._decode import open_image, pixels, to_array, worker_count
from precut.data._source import Encodings
from precut.errors import PrecutError

__all__ = ["LazySplit"]

_AHEAD = 2  # batches that are being decoded while one is trained on
_SHORT_SIDE = 256 / 224  # of the picture, as a multiple of the image size, before the centre is cut out


@dataclass(frozen=True, eq=False)
class LazySplit:
    """Pictures on disk with their classes. :class:`BatchLoader` takes it like a :class:`Split`.

    To train (an Augment with ``area``), a random part is enlarged or reduced to the image size; otherwise the shorter
    side is resized to 256/224 of the image size and the centre is cut out.

    Attributes:
        encodings: the picture files.
        labels: int64 of shape (N,).
        image_size: height and width of what comes out.
        channels: 1 or 3.
        name: what messages call it.
        threads: decoding threads; None for one a CPU, eight at most.
    """

    encodings: Encodings
    labels: Tensor
    image_size: int
    channels: int = 3
    name: str = "split"
    threads: int | None = None
    positions: Tensor | None = None  # int64: which pictures are in the split, and in what order; None for all

    def __post_init__(self) -> None:
        if len(self.labels) == 0:
            raise PrecutError(f"{self.name}: the split is empty; expected at least one image")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"LazySplit({self.name!r}, {len(self)} images, decoded to {self.image_size}x{self.image_size})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image that comes out."""
        return self.channels, self.image_size, self.image_size

    def subset(self, index: Tensor, name: str | None = None) -> LazySplit:
        """The pictures at ``index`` (int64 of shape (n,)), in that order; nothing is read."""
        positions = index if self.positions is None else self.positions[index]
        return replace(self, labels=self.labels[index], positions=positions, name=name or self.name)

    def stream(
        self, batches: Sequence[Tensor], draws: Tensor | None = None, area: tuple[float, float] = (1.0, 1.0)
    ) -> Iterator[Tensor]:
        """Decode batch after batch, on threads, a little ahead of the caller.

        Args:
            batches: int64 positions in this split, a tensor a batch.
            draws: float (N, 4) in 0..1, what was drawn for each image of the split: see :meth:`Augment.draw`.
            area: smallest and largest share of the picture; used with ``draws``.

        Yields:
            uint8 of shape (B, C, H, W) on the CPU.
        """

        def one(index: int) -> NDArray[np.uint8]:
            position = index if self.positions is None else int(self.positions[index])
            drawn = None if draws is None else draws[index].tolist()
            return self._decode(position, drawn, area)

        pool = ThreadPoolExecutor(worker_count(self.threads))
        running: deque[list[Future[NDArray[np.uint8]]]] = deque()
        try:
            for batch in batches:
                running.append([pool.submit(one, index) for index in batch.tolist()])
                if len(running) > _AHEAD:
                    yield _gather(running.popleft())
            while running:
                yield _gather(running.popleft())
        finally:  # the caller may stop early
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, position: int, drawn: list[float] | None, area: tuple[float, float]) -> NDArray[np.uint8]:
        import PIL.Image

        where = self.encodings.where(position)
        image = open_image(self.encodings.read(position), where)
        size = self.image_size
        if drawn is None:
            image = pixels(image, self.channels, where)
            short = round(size * _SHORT_SIDE)
            width, height = image.size
            # what remains of the resized picture, in pixels of the original one: one resampling instead of two
            side = min(width, height) * size / short
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        else:
            left, top, right, bottom = random_part(image.size, drawn, area)
            full = image.size
            # JPEG can be decoded at a half, a quarter, an eighth at little cost, where that still has pixels enough
            image.draft(image.mode, (int(size * full[0] / (right - left)), int(size * full[1] / (bottom - top))))
            image = pixels(image, self.channels, where)
            across, down = image.size[0] / full[0], image.size[1] / full[1]
            box = (left * across, top * down, right * across, bottom * down)
        return to_array(image.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box), self.channels)


def random_part(size: tuple[int, int], drawn: Sequence[float], area: tuple[float, float]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the part that four numbers in 0..1 choose: its area, aspect ratio (log-uniform in
    3/4..4/3), row and column.

    Where the part would stick out it is narrowed to fit, so that four numbers always do; torchvision draws again, up
    to ten times.
    """
    width, height = size
    pixels_wanted = width * height * (area[0] + drawn[0] * (area[1] - area[0]))
    ratio = math.exp((2 * drawn[1] - 1) * math.log(4 / 3))
    across = min(width, max(1, round(math.sqrt(pixels_wanted * ratio))))
    down = min(height, max(1, round(math.sqrt(pixels_wanted / ratio))))
    top = min(int(drawn[2] * (height - down + 1)), height - down)
    left = min(int(drawn[3] * (width - across + 1)), width - across)
    return left, top, left + across, top + down


def _gather(futures: list[Future[NDArray[np.uint8]]]) -> Tensor:
    return torch.from_numpy(np.stack([future.result() for future in futures]))
