"""Normalised, augmented batches, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from precut.data._augment import Augment, Draws
from precut.data._dataset import Split
from precut.data._lazy import LazySplit
from precut.errors import PrecutError

__all__ = ["BatchLoader"]


class BatchLoader:
    """Iterate over a split once: (images, labels) batches on ``device``.

    Images come as float32 of shape (B, C, H, W), normalised; labels as int64 of shape (B,). A split in memory is
    moved to ``device`` once, as uint8, and augmented there, so that training does not wait for its data; a
    :class:`LazySplit` is decoded ahead by threads.
    The order and the augmentation of epoch e depend only on (``seed``, e): not on the batch size, the number of
    processes or torch's global random state. Iterating again without :meth:`set_epoch` repeats the epoch.

    Args:
        split: what to iterate over.
        batch_size: images a batch, in this process.
        mean, std: one a channel, on the 0..1 scale.
        augment: what to do to the images at random; None (evaluation) for nothing.
        shuffle: a new random order every epoch; False for the split's own order.
        seed: of the order and of the augmentation.
        epoch: the first epoch; see :meth:`set_epoch`.
        device: where the batches lie.
        drop_last: leave out the last batch if it is not full.
        memory_format: of the images, ``torch.channels_last`` for instance.
        rank, world_size: this process's part, of how many. Parts are disjoint. Shuffled ones are of equal size, as
            processes that train in step need, and so leave out up to ``world_size - 1`` images, others each epoch.
            In the split's own order, where accuracy is measured, every image comes in exactly one part.
    """

    def __init__(
        self,
        split: Split | LazySplit,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None = None,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        memory_format: torch.memory_format = torch.contiguous_format,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        channels, height, width = split.image_shape
        if batch_size < 1:
            raise PrecutError(f"BatchLoader got batch_size={batch_size}; expected at least 1")
        if not 0 <= rank < world_size:
            raise PrecutError(
                f"BatchLoader got rank={rank} with world_size={world_size}; expected 0 <= rank < world_size"
            )
        for name, value in (("mean", mean), ("std", std)):
            if len(value) != channels:
                raise PrecutError(
                    f"BatchLoader got {len(value)} values for {name}, but {split.name} has {channels} channels; "
                    "expected one a channel"
                )
        if min(std) <= 0:
            raise PrecutError(f"BatchLoader got std={tuple(std)}; expected values above 0")
        if augment is not None:
            augment.check(height, width)
            if augment.area is not None and isinstance(split, Split):
                raise PrecutError(
                    f"BatchLoader got Augment(area={augment.area}) for {split.name}, which is in memory at its final "
                    "size; use crop_padding, or load it with lazy=True"
                )
        self.split = split
        self.batch_size = batch_size
        self.augment = augment
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = epoch
        self.device = torch.device(device)
        self.drop_last = drop_last
        self.memory_format = memory_format
        self.rank = rank
        self.world_size = world_size
        # (x / 255 - mean) / std as one multiplication and one addition
        self._scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=self.device).view(-1, 1, 1)
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self._shift = torch.tensor(shift, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        self._images = split.images.to(self.device) if isinstance(split, Split) else None
        self._labels = split.labels.to(self.device)
        if len(self) == 0:
            raise PrecutError(
                f"BatchLoader gives no batch: {split.name} has {len(split)} images for batch_size={batch_size}, "
                f"world_size={world_size}, drop_last={drop_last}; use smaller batches"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next iteration."""
        self.epoch = epoch

    @property
    def num_images(self) -> int:
        """Images that one iteration gives in this process."""
        count = len(self.split)
        if self.shuffle:
            part = count // self.world_size
        else:
            part = (count - self.rank + self.world_size - 1) // self.world_size
        return part - part % self.batch_size if self.drop_last else part

    def __len__(self) -> int:
        return (self.num_images + self.batch_size - 1) // self.batch_size

    def order(self) -> Tensor:
        """The positions in the split that this process visits in this epoch, in order: int64 on the CPU."""
        count = len(self.split)
        if self.shuffle:
            order = torch.randperm(count, generator=self._generator("order"))
        else:
            order = torch.arange(count)
        return order[self.rank :: self.world_size][: self.num_images]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.order().split(self.batch_size)
        draws = self._draw()
        here = draws.to(self.device)
        for index, images in zip((batch.to(self.device) for batch in batches), self._raw(batches, draws), strict=True):
            yield self._finish(images, here[index]), self._labels[index]

    def _raw(self, batches: Sequence[Tensor], draws: Draws) -> Iterator[Tensor]:
        """The uint8 images of each batch, on the device."""
        if isinstance(self.split, LazySplit):
            area = self.augment.area if self.augment is not None else None
            for images in self.split.stream(batches, draws.area, area or (1.0, 1.0)):
                yield images.to(self.device)
        else:
            assert self._images is not None
            for batch in batches:
                yield self._images[batch.to(self.device)]

    def _generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for each (purpose, seed, epoch). Hashed: near seeds must not give related streams."""
        digest = hashlib.blake2b(f"{purpose} {self.seed} {self.epoch}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

    def _draw(self) -> Draws:
        if self.augment is None:
            return Draws()
        _, height, width = self.split.image_shape
        return self.augment.draw(len(self.split), height, width, self._generator("augment"))

    def _finish(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 to augmented, normalised float32. What is cheap on bytes is done on bytes."""
        if self.augment is not None:
            images = self.augment.crop_and_flip(images, draws)
        images = images.contiguous(memory_format=self.memory_format)
        images = torch.addcmul(self._shift, images.to(torch.float32), self._scale)
        if self.augment is not None:
            images = self.augment.cut_out_(images, draws)
        return images
