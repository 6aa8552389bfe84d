"""Keeping exactly the k highest of many numbers, ties in favour of those that come first, without sorting them all.

A sample brackets the k-th highest; one pass over all numbers, in parts that stay in the cache, then tells what is above
the bracket and gathers the few within, which alone are ordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from precut.errors import PrecutError

__all__ = ["PART", "Floats", "Piece", "check_scores", "keep_above", "keep_highest"]

_SAMPLE = 1 << 15
PART = 1 << 16  # half a megabyte of float64

Floats = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


class Piece:
    """Numbers of one layer: a tensor, or the product of two that is only computed part by part.

    Args:
        first: floating-point tensor.
        second: of the same shape, or None.
    """

    def __init__(self, first: torch.Tensor, second: torch.Tensor | None = None) -> None:
        self.shape = first.shape
        self.device = first.device
        self.first = first.reshape(-1)
        self.second = None if second is None else second.reshape(-1)

    def __len__(self) -> int:
        return self.first.numel()

    def parts(self, scratch: Floats) -> Iterator[tuple[int, Floats]]:
        """(start, numbers) of each part, in order; the numbers may lie in ``scratch``."""
        first = self.first.cpu().numpy()
        second = None if self.second is None else self.second.cpu().numpy()
        for start in range(0, len(first), PART):
            part = first[start : start + PART]
            if second is not None:
                part = np.multiply(part, second[start : start + PART], out=scratch[: len(part)])
            yield start, part

    def at(self, index: torch.Tensor) -> torch.Tensor:
        """The numbers at some positions."""
        found = self.first.index_select(0, index)
        return found if self.second is None else found * self.second.index_select(0, index)

    def sample(self, stride: int, alive: torch.Tensor | None) -> torch.Tensor:
        """Every ``stride``-th number, of those that are alive."""
        found = self.first[::stride] if self.second is None else self.first[::stride] * self.second[::stride]
        return found if alive is None else found[alive[::stride]]

    def whole(self) -> torch.Tensor:
        """All numbers."""
        made = self.first if self.second is None else self.first * self.second
        return made.view(self.shape)


Pieces = Sequence[Piece]
Masks = Sequence[torch.Tensor]


def _bracket(pieces: Pieces, k: int, alive: Masks | None, total: int) -> tuple[float, float]:
    """(low, high): numbers between which the ``k``-th highest of ``total`` is likely to be; infinite if small."""
    count = sum(map(len, pieces))
    stride = max(1, count // _SAMPLE)
    if stride == 1:
        return -math.inf, math.inf
    sample = torch.cat([p.sample(stride, None if alive is None else alive[i]) for i, p in enumerate(pieces)])
    count = len(sample)
    if not count:
        return -math.inf, math.inf
    share = k / total
    slack = 4 * math.sqrt(count * share * (1 - share)) + 8  # standard deviations of a rank in the sample, and for ties
    above, below = int(share * count - slack), int(share * count + slack)
    high = float(torch.kthvalue(sample, count - above + 1).values) if above >= 1 else math.inf
    low = float(torch.kthvalue(sample, count - below + 1).values) if below <= count else -math.inf
    return low, high


def _scan(pieces: Pieces, alive: Masks | None, low: float, high: float) -> list[tuple[Bools, Places, Floats]]:
    """One pass: for each piece a mask of what is above ``high``, and positions and numbers of what is from ``low`` to
    ``high``."""
    living: list[Bools | None] = [None] * len(pieces) if alive is None else [mask.cpu().numpy() for mask in alive]
    return [_scan_piece(piece, mask, low, high) for piece, mask in zip(pieces, living, strict=True)]


def _scan_piece(piece: Piece, alive: Bools | None, low: float, high: float) -> tuple[Bools, Places, Floats]:
    # NumPy compares and finds several times faster than torch on a CPU.
    scratch = np.empty(min(PART, len(piece)), dtype=piece.first[:0].cpu().numpy().dtype)
    mask = np.empty(len(piece), dtype=bool)
    where, found = [np.empty(0, dtype=np.int64)], [scratch[:0]]
    for start, part in piece.parts(scratch):
        end = start + len(part)
        over = np.greater(part, high, out=mask[start:end])
        inside = part >= low
        np.logical_xor(inside, over, out=inside)
        if alive is not None:
            np.logical_and(over, alive[start:end], out=over)
            np.logical_and(inside, alive[start:end], out=inside)
        index = np.flatnonzero(inside)
        if len(index):
            where.append(index + start)
            found.append(part[index])
    return mask, np.concatenate(where), np.concatenate(found)


def keep_highest(scores: Sequence[Piece | torch.Tensor], k: int, alive: Masks | None = None) -> list[torch.Tensor]:
    """A bool mask for each piece, with exactly ``k`` True in all: the highest numbers, of equal ones those that come
    first.

    Args:
        scores: floating-point, on one device, of one dtype that NumPy has, without NaN.
        k: from 0 to the number of all elements (all that are alive).
        alive: bool masks of what may be kept; by default everything.
    """
    pieces = [score if isinstance(score, Piece) else Piece(score) for score in scores]
    flat = None if alive is None else [mask.reshape(-1) for mask in alive]
    total = sum(map(len, pieces)) if flat is None else sum(int(np.count_nonzero(mask.cpu().numpy())) for mask in flat)
    if k >= total:
        if alive is not None:
            return [mask.clone() for mask in alive]
        return [torch.ones(p.shape, dtype=torch.bool, device=p.device) for p in pieces]
    if k <= 0:
        return [torch.zeros(p.shape, dtype=torch.bool, device=p.device) for p in pieces]
    low, high = _bracket(pieces, k, flat, total)
    scanned = _scan(pieces, flat, low, high)
    above = sum(int(np.count_nonzero(mask)) for mask, _, _ in scanned)
    if not above < k <= above + sum(len(numbers) for _, _, numbers in scanned):  # the sample misled
        scanned = _scan(pieces, flat, -math.inf, math.inf)
        above = sum(int(np.count_nonzero(mask)) for mask, _, _ in scanned)
    numbers = torch.from_numpy(np.concatenate([numbers for _, _, numbers in scanned]))
    kept = _stable(numbers, k - above).numpy()
    start = 0
    masks = []
    for piece, (mask, places, _) in zip(pieces, scanned, strict=True):
        mask[places[kept[start : start + len(places)]]] = True
        start += len(places)
        masks.append(torch.from_numpy(mask).view(piece.shape).to(piece.device))
    return masks


def _stable(numbers: torch.Tensor, k: int) -> torch.Tensor:
    """A bool mask with exactly ``k`` True: the highest, of equal ones the first."""
    if bool((numbers == numbers[0]).all()):  # as when most scores are zero; kthvalue would be slow
        threshold = numbers[0]
    else:
        threshold = torch.kthvalue(numbers, len(numbers) - k + 1).values
    kept = numbers > threshold
    tied = (numbers == threshold).nonzero().squeeze(1)
    kept[tied[: k - int(torch.count_nonzero(kept))]] = True
    return kept


def keep_above(scores: Sequence[torch.Tensor], dropped: int) -> list[torch.Tensor]:
    """The published code's rule: everything that is not above the ``dropped``-th lowest number goes, so ties at the
    threshold all go."""
    if dropped < 1:
        return [torch.ones_like(piece, dtype=torch.bool) for piece in scores]
    every = torch.cat([piece.reshape(-1) for piece in scores])
    threshold = torch.kthvalue(every, dropped).values
    return [piece > threshold for piece in scores]


def check_scores(given: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Piece]:
    """The Pieces of scores, tensors or Pieces, in the order of ``shapes``.

    Raises:
        PrecutError: unless there is a finite number for every weight of every layer.
    """
    if not isinstance(given, Mapping):
        raise PrecutError(f"{what} must give a dict of tensors by layer; got {type(given).__name__}")
    made = {}
    for name, shape in shapes.items():
        if name not in given:
            raise PrecutError(f"{what} gave no numbers for layer {name!r}")
        one = given[name]
        if isinstance(one, Piece):
            made[name] = one
            continue
        if not isinstance(one, torch.Tensor) or tuple(one.shape) != shape or not one.is_floating_point():
            shown = f"{one.dtype} {tuple(one.shape)}" if isinstance(one, torch.Tensor) else type(one).__name__
            raise PrecutError(
                f"{what} must give a floating-point tensor of shape {shape} for layer {name!r}; got {shown}"
            )
        # One pass: a sum is finite only if all its terms are; it may overflow where they are, which the second tells.
        if not bool(torch.isfinite(one.sum())) and not bool(torch.isfinite(one).all()):
            raise PrecutError(f"{what} gave NaN or infinity for layer {name!r}")
        # NumPy, which selects, has no 16-bit floats worth the name.
        made[name] = Piece(one.detach().float() if one.element_size() < 4 else one.detach())
    return made
