"""Batches of images, from whatever a caller has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from precut.data import BatchLoader, Dataset
from precut.errors import PrecutError
from precut.graph import rebuild

__all__ = ["batches_of", "placed"]


def placed(model: nn.Module, items: Any) -> Any:
    """Tensors, in whatever structure, where the model is, and in its precision where they are floating."""
    first = next(iter(model.parameters()), None)

    def place(leaf: Any) -> Any:
        if first is None or not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.to(first) if leaf.is_floating_point() else leaf.to(first.device)

    return rebuild(items, place)


def batches_of(
    data: Any, images: int, batch_size: int, what: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """(images, labels or None), at most ``images`` of them together.

    Args:
        data: a Dataset (its training images, normalised, not augmented, in their order), a tensor of images, or an
            iterable of batches: tensors, or pairs (images, labels).
        what: who asks, for messages.

    Raises:
        PrecutError: without data, or for something else.
    """
    left = images
    if isinstance(data, Dataset):
        data = BatchLoader(data.train, min(batch_size, images), data.mean, data.std)
    elif isinstance(data, torch.Tensor):
        data = data.split(batch_size)
    if data is None or isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise PrecutError(
            f"{what} needs data: a Dataset (precut.data.load), a tensor of images, or batches of them; got "
            f"{type(data).__name__} {data!r:.40}"
        )
    some = False
    for item in data:
        labels = None
        if isinstance(item, (tuple, list)) and len(item) == 2:
            item, labels = item
        if not isinstance(item, torch.Tensor) or not item.is_floating_point() or item.ndim < 2:
            raise PrecutError(f"{what} needs batches of floating-point images (N, ...); got {type(item).__name__}")
        if len(item):
            some = True
            yield item[:left], None if labels is None else labels[:left]
        left -= len(item)
        if left <= 0:
            return
    if not some:
        raise PrecutError(f"{what} needs data: there is no image in what was given")
