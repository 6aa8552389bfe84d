"""Makers of every registered kind, and layers for them: what the batteries of supports, ops and layers run over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from precut.supports import (
    NM,
    CenterOnly,
    ClassTable,
    Dense,
    Periodic,
    RandomKernel,
    SupportMaker,
    Unstructured,
    makers,
)

Shape = tuple[int, ...]

# (dense weight's shape, groups): plain, ragged channels, other kernels, grouped, depthwise, 1x1, linear
LAYERS: list[tuple[Shape, int]] = [
    ((16, 16, 3, 3), 1),
    ((10, 7, 3, 3), 1),
    ((12, 8, 5, 5), 1),
    ((5, 4, 7, 7), 1),
    ((9, 6, 3, 5), 1),
    ((6, 5, 2, 2), 1),
    ((12, 4, 3, 3), 3),
    ((12, 1, 3, 3), 12),
    ((8, 1, 3, 3), 4),
    ((8, 12, 1, 1), 1),
    ((7, 12), 1),
]


def random_mask(shape: Shape, density: float = 0.3) -> torch.Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(math.prod(shape))) < density
    mask[0] = False  # a filter without weights
    mask.view(-1)[-1] = True
    return mask


def _periodic(shape: Shape, area: int) -> list[SupportMaker]:
    some = [Periodic(kss, kss + 3) for kss in {1, min(2, area), min(4, area)}]
    boosted = Periodic(min(4, area), 8, full_kernel=True)
    aligned = Periodic(1, 4, full_kernel=True, align=2, phase=3)
    nested = Periodic(min(2, area), 4, nested=True)
    given = Periodic(1, 3, variants=[[0], [area - 1], [area // 2]])
    return [*some, boosted, aligned, nested, given]


def _class_table(shape: Shape, area: int) -> list[SupportMaker]:
    everything = list(range(area))
    uneven = [[[], everything, [area - 1]], [[0], [area // 2], everything[::2]]]
    return [ClassTable(uneven), ClassTable(uneven, align=3), ClassTable([[[]]])]


MAKERS: dict[str, Callable[[Shape, int], list[SupportMaker]]] = {
    "dense": lambda shape, area: [Dense()],
    "periodic": _periodic,
    "class_table": _class_table,
    "random_kernel": lambda shape, area: [RandomKernel(1), RandomKernel(min(3, area), seed=5, stream=2)],
    "nm": lambda shape, area: [NM(1, 1)] + [NM(2, 4)] * (shape[1] % 4 == 0) + [NM(1, 3)] * (shape[1] % 3 == 0),
    "center": lambda shape, area: [CenterOnly(), CenterOnly(4)] if all(size % 2 for size in shape[2:]) else [],
    "unstructured": lambda shape, area: [Unstructured(random_mask(shape)), Unstructured(torch.ones(shape))],
}


def makers_for(shape: Shape) -> Iterator[SupportMaker]:
    """Every example of every registered kind that fits a dense weight of this shape."""
    for kind in makers:
        if kind not in MAKERS:
            raise LookupError(f"support kind {kind!r} is registered, but has no examples in {__file__}")
        yield from MAKERS[kind](shape, math.prod(shape[2:]))


def cases() -> list[object]:
    """(maker, shape, groups) for pytest.mark.parametrize."""
    return [
        pytest.param(maker, shape, groups, id=f"{maker.kind}-{maker}-{'x'.join(map(str, shape))}g{groups}-{number}")
        for shape, groups in LAYERS
        for number, maker in enumerate(makers_for(shape))
    ]
