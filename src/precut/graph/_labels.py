"""Names for channels. Every position of a tensor's channel axis holds one *code*: an atom and a tag.

An **atom** is what moves as one: all positions, in all tensors, that must change places together. A **tag** tells the
    positions
of one atom in one axis from each other (a flattened map has H * W positions for each channel), so that (atom, tag) is
unique in every axis. Moving atom a to where b was takes (a, t) to where (b, t) was, for every tag t. Tags are made the
same way for every atom, which is what makes this right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["TAG_BITS", "Codes", "Labels", "Tags", "UnionFind", "atoms_of", "collapse", "reshape", "tags_of"]

Codes = npt.NDArray[np.int64]
TAG_BITS = 24
_TAG_MASK = (1 << TAG_BITS) - 1


def atoms_of(codes: Codes) -> Codes:
    """The atoms of codes."""
    return codes >> TAG_BITS


def tags_of(codes: Codes) -> Codes:
    """The tags of codes."""
    return codes & _TAG_MASK


@dataclass(frozen=True)
class Labels:
    """What is known of the channels of one tensor.

    Attributes:
        shape: the tensor's shape.
        dims: the dimensions along which positions have codes, ascending; empty when no channels are followed.
        codes: as many dimensions as the tensor, full size along ``dims`` and 1 elsewhere; None where ``dims`` is empty.
        constant: the tensor has one value everywhere (zeros), so that it may be permuted at will.
        reason: why no channels are followed.
        param: name of the parameter or buffer that this is, untouched.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...] = ()
    codes: Codes | None = None
    constant: bool = False
    reason: str = ""
    param: str | None = None

    @property
    def full(self) -> Codes:
        """The codes, of a tensor that has some."""
        assert self.codes is not None
        return self.codes

    @property
    def followed(self) -> bool:
        """Whether there are codes."""
        return self.codes is not None

    @staticmethod
    def along(dim: int, codes: Codes, shape: tuple[int, ...]) -> Labels:
        """Codes along one dimension of a tensor of ``shape``, whose size there becomes the codes'."""
        sizes = [1] * len(shape)
        sizes[dim] = len(codes)
        new = tuple(len(codes) if d == dim else size for d, size in enumerate(shape))
        return Labels(new, (dim,), codes.reshape(sizes))

    def moved(self, shape: tuple[int, ...], order: tuple[int | None, ...]) -> Labels:
        """The same codes for a tensor whose dimension d was dimension ``order[d]`` before, or is a new one of no
        codes."""
        if self.codes is None:
            return Labels(shape, constant=self.constant, reason=self.reason)
        kept = [old for old in order if old is not None]
        codes = self.codes.transpose([*kept, *(d for d in range(self.codes.ndim) if d not in kept)])
        codes = codes.reshape([1 if old is None else self.codes.shape[old] for old in order])
        dims = tuple(d for d, old in enumerate(order) if old in self.dims)
        if not dims:
            return Labels(tuple(shape), reason="a single channel")
        return Labels(tuple(shape), dims, codes)


class Tags:
    """Numbers for tags; the same path gives the same number. 0 is the empty path."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, str, int], int] = {}

    def extend(self, codes: Codes, kind: str, steps: Codes) -> Codes:
        """``codes`` with one more step of ``kind`` at the end of each tag's path."""
        codes, steps = np.broadcast_arrays(codes, steps)
        span = int(steps.max(initial=0)) + 1
        paths, inverse = np.unique(tags_of(codes) * span + steps, return_inverse=True)
        numbers = [
            self._numbers.setdefault((path // span, kind, path % span), len(self._numbers) + 1)
            for path in paths.tolist()
        ]
        if len(self._numbers) > _TAG_MASK:
            raise OverflowError("too many positions for one channel")
        return (atoms_of(codes) << TAG_BITS) | np.array(numbers, np.int64)[inverse].reshape(codes.shape)

    def distinct(self, codes: Codes, kind: str, steps: Codes | None = None) -> Codes:
        """``codes`` with each at most once: those of atoms of which some code is there twice get a further step:
        ``steps``, or the code's count from the left. (All codes of such an atom do, since the new ones must not meet
        old ones.)"""
        flat = codes.reshape(-1)
        _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
        if counts.max(initial=0) <= 1:
            return codes
        _, atom = np.unique(atoms_of(flat), return_inverse=True)
        repeated = np.zeros(len(flat), bool)
        repeated[atom[counts[inverse] > 1]] = True
        if steps is None:
            order = np.argsort(inverse, kind="stable")
            starts = np.cumsum(counts) - counts
            number = np.empty(len(flat), np.int64)
            number[order] = np.arange(len(flat)) - np.repeat(starts, counts)
        else:
            number = np.broadcast_to(steps, codes.shape).reshape(-1)
        return np.where(repeated[atom], self.extend(flat, kind, number), flat).reshape(codes.shape)


class UnionFind:
    """Which atoms are the same, over arrays."""

    def __init__(self) -> None:
        self._parent: Codes = np.empty(0, np.int64)
        self.changed = False

    def __len__(self) -> int:
        return len(self._parent)

    def grow(self, count: int) -> Codes:
        """``count`` new atoms."""
        new = np.arange(len(self._parent), len(self._parent) + count, dtype=np.int64)
        self._parent = np.concatenate([self._parent, new])
        return new

    def find(self, atoms: Codes) -> Codes:
        """The least atom that each is the same as."""
        return self._parent[atoms]

    def union(self, first: Codes, second: Codes) -> None:
        """Makes the atoms at equal places the same."""
        while True:
            a, b = self._parent[first], self._parent[second]
            if (a == b).all():
                return
            self.changed = True
            low, high = np.minimum(a, b), np.maximum(a, b)
            np.minimum.at(self._parent, high, low)
            while True:  # flatten: every entry points at its root again
                up = self._parent[self._parent]
                if (up == self._parent).all():
                    break
                self._parent = up


def collapse(labels: Labels, dim: int) -> Codes | None:
    """One code for each position along ``dim``, if whole slices there move as one and in the same way; else None."""
    if not labels.followed or dim not in labels.dims:
        return None
    if not labels.shape[dim]:
        return np.empty(0, np.int64)
    rows = np.moveaxis(labels.full, dim, 0).reshape(labels.shape[dim], -1)
    if rows.shape[1] == 1:
        return rows[:, 0]
    first = rows[:, 0]
    if (atoms_of(rows) != atoms_of(first)[:, None]).any():
        return None
    tags = tags_of(rows)
    _, example, inverse = np.unique(tags[:, 0], return_index=True, return_inverse=True)
    return None if (tags != tags[example][inverse]).any() else first


def _segments(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions, of sizes above 1, that a reshape turns into each other."""
    left = [d for d, size in enumerate(before) if size != 1]
    right = [d for d, size in enumerate(after) if size != 1]
    segments = []
    while left or right:
        ins, outs = [left.pop(0)], [right.pop(0)]
        have, want = before[ins[0]], after[outs[0]]
        while have != want:
            if have < want:
                ins.append(left.pop(0))
                have *= before[ins[-1]]
            else:
                outs.append(right.pop(0))
                want *= after[outs[-1]]
        segments.append((ins, outs))
    return segments


def reshape(labels: Labels, shape: tuple[int, ...], tags: Tags, hint: tuple[int, ...] | None = None) -> Labels:
    """The labels of the tensor reshaped to ``shape`` (of as many elements). Where a dimension with codes is joined
    with one without, each code is repeated with the place in the other as a further step of its tag.

    Shapes alone do not tell where a single channel goes; ``hint`` names the dimensions that hold channels where it is
    known."""
    if not labels.followed or 0 in shape:
        return Labels(shape, constant=labels.constant, reason=labels.reason or "a tensor without elements")
    codes = labels.full
    sizes = [1] * len(shape)
    dims: list[int] = []
    segments = _segments(labels.shape, shape)
    free = [d for d in hint or () if shape[d] == 1]
    for d in (d for d in labels.dims if labels.shape[d] == 1):  # a single channel belongs to no segment yet
        same_place = d < len(shape) and shape[d] == 1 and math.prod(labels.shape[:d]) == math.prod(shape[:d])
        if free or (hint is None and same_place):
            dims.append(free.pop(0) if free else d)
        else:
            for ins, _ in segments:
                if ins[0] > d:
                    ins.insert(0, d)
                    break
    for ins, outs in segments:
        if not any(d in labels.dims for d in ins):
            continue
        spread = [d for d in ins if d not in labels.dims]
        if spread:
            steps = np.zeros([1] * codes.ndim, np.int64)
            for d in spread:
                place = np.arange(labels.shape[d]).reshape([-1 if axis == d else 1 for axis in range(codes.ndim)])
                steps = steps * labels.shape[d] + place
            codes = tags.extend(codes, "flat", steps)
        for d in outs:
            sizes[d] = shape[d]
            dims.append(d)
    dims += free
    if not dims:
        return Labels(shape, reason="a single channel was reshaped away")
    return Labels(tuple(shape), tuple(sorted(dims)), codes.reshape(sizes))
