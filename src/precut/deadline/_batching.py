"""How many of the waiting requests to answer by one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["collate", "pick_batch", "split"]


def pick_batch(
    waiting: Sequence[float],
    sizes: Sequence[int],
    accuracy: dict[str, float],
    bounds: Callable[[int], dict[str, float]],
) -> int:
    """The batch size that serves the queue best; the point for it is then the selector's choice.

    For each size the earliest deadline says which is the most accurate point that fits; the requests behind it are then
    thought to be served by the quickest point, in the largest batches, one after the other. The size with the most
    accuracy over all requests wins; of equal ones that by which all are done soonest.

    Args:
        waiting: seconds left of each waiting request, ascending.
        sizes: measured batch sizes.
        accuracy: of the points.
        bounds: batch size to seconds that each point is now expected to keep.
    """
    best_size, best = 1, (-1.0, 0.0)
    largest = max(sizes)
    rest_bounds = bounds(largest)
    quickest = min(rest_bounds, key=lambda name: rest_bounds[name])
    # Sizes between the measured ones cost what the next larger does: only a full batch or the whole queue is worth it.
    for size in sorted({min(size, len(waiting)) for size in sizes}):
        table = bounds(size)
        fitting = [name for name, bound in table.items() if bound <= waiting[0]]
        if not fitting:
            continue
        name = max(fitting, key=lambda point: accuracy[point])
        worth = size * accuracy[name]
        now = table[name]
        for first in range(size, len(waiting), largest):
            now += rest_bounds[quickest]
            worth += accuracy[quickest] * sum(left >= now for left in waiting[first : first + largest])
        if (worth, -now) > best:
            best_size, best = size, (worth, -now)
    return best_size


def collate(inputs: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The inputs of several requests as those of one call: tensors joined along their first axis."""
    if len(inputs) == 1:
        return inputs[0]
    return tuple(torch.cat(parts) for parts in zip(*inputs, strict=True))


def split(outputs: Any, inputs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The outputs of one call as those of each request."""
    if len(inputs) == 1:
        return [outputs]
    return list(torch.split(outputs, [len(parts[0]) for parts in inputs]))
