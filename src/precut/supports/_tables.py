"""Kernel positions of the periodic variants: the published tables, and balanced ones of our own for everything else.

A position is the row-major index in a (kh, kw) kernel. A table is a tuple of variants, a variant an ordered tuple of
positions, most wanted first, so that a prefix of it is a good variant for fewer weights.
"""

from __future__ import annotations

import math
from functools import cache

__all__ = ["PUBLISHED", "Table", "balanced_table", "drift"]

Table = tuple[tuple[int, ...], ...]

# Kundu et al., Allerton 2019 and IEEE TC 69(7) 2020, from the authors' code: the four 2x2 corner blocks, the six
# horizontal pairs, the nine single positions (the last follows from the name PS1_P9).
PUBLISHED: dict[int, Table] = {
    4: ((0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8)),
    2: ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8)),
    1: tuple((position,) for position in range(9)),
}


def drift(variants: Table, kernel_size: tuple[int, int]) -> float:
    """Length of the mean offset from the kernel's centre, in pixels, over all positions of all variants.

    A network of kernels that all lean one way shifts its image by this much in every layer.
    """
    kh, kw = kernel_size
    positions = [position for variant in variants for position in variant]
    rows = sum(position // kw for position in positions) / len(positions) - (kh - 1) / 2
    columns = sum(position % kw for position in positions) / len(positions) - (kw - 1) / 2
    return math.hypot(rows, columns)


def _position_order(kernel_size: tuple[int, int], count: int, kss: int | None) -> list[int]:
    """An order of all positions, nearest to the centre first, such that ``n * count`` positions of it, taken going
    round and round, are balanced about the centre: for n = kss, or for every n as well as can be. Found by exchanging
    pairs downhill; in whole numbers only, since saved models rely on every machine finding the same."""
    kh, kw = kernel_size
    area = kh * kw
    lean_weight: dict[int, int] = {}
    for n in range(1, area + 1) if kss is None else (kss,):
        if cut := n * count % area:
            lean_weight[cut] = lean_weight.get(cut, 0) + 10**12 // (n * count) ** 2
    # Twice the offset from the centre; a centre counts as the nearest of all.
    rows = [2 * (position // kw) - (kh - 1) for position in range(area)]
    columns = [2 * (position % kw) - (kw - 1) for position in range(area)]
    radius = [(row * row + column * column) or -1 for row, column in zip(rows, columns, strict=True)]
    order = sorted(range(area), key=lambda position: (radius[position], position))
    sums = {cut: (sum(rows[p] for p in order[:cut]), sum(columns[p] for p in order[:cut])) for cut in lean_weight}

    def gain(first: int, second: int) -> tuple[int, int]:
        """How much less the order leans, and how much nearer it is, with these two exchanged."""
        old, new = order[first], order[second]
        row, column = rows[new] - rows[old], columns[new] - columns[old]
        lean = far = 0
        for cut, weight in lean_weight.items():
            if first < cut <= second:
                r, c = sums[cut]
                lean -= weight * (row * (2 * r + row) + column * (2 * c + column))
                far -= 10**6 * (radius[new] - radius[old]) // cut
        return lean, far

    # Networks without centre weights train worse, so a centre stays first. Two exceptions: when every position is used
    # anyway, and when the centre and one more are all, which leans half a pixel (two opposite ones do not lean).
    start = 1 if radius[order[0]] < 0 and (kss is None or (kss * count < area and kss * count != 2)) else 0
    improved = True
    while improved:
        improved = False
        for first in range(start, area):
            for second in range(first + 1, area):
                if gain(first, second) > (0, 0):
                    old, new = order[first], order[second]
                    for cut in lean_weight:
                        if first < cut <= second:
                            r, c = sums[cut]
                            sums[cut] = (r + rows[new] - rows[old], c + columns[new] - columns[old])
                    order[first], order[second] = new, old
                    improved = True
    return order


def _perfect_matching(demand: list[list[int]]) -> list[int]:
    """For each rank one position with demand left, all different; a regular bipartite multigraph always has one."""
    area = len(demand)
    rank_of = [-1] * area

    def place(rank: int, seen: set[int]) -> bool:
        for position in sorted(range(area), key=lambda p: (-demand[rank][p], p)):
            if demand[rank][position] and position not in seen:
                seen.add(position)
                if rank_of[position] < 0 or place(rank_of[position], seen):
                    rank_of[position] = rank
                    return True
        return False

    for rank in range(area):
        place(rank, set())
    chosen = [0] * area
    for position, rank in enumerate(rank_of):
        chosen[rank] = position
    return chosen


@cache
def balanced_table(count: int, kernel_size: tuple[int, int], kss: int | None = None) -> Table:
    """``count`` variants, each an order of *all* positions of the kernel.

    The n-prefixes of all variants together use min(kh kw, n count) positions, no position more than once oftener than
    another, for every n; and prefixes nest by construction. They lean from the centre as little as could be found: for
    n = kss alone, or for all n together where ``kss`` is None.

    Ranks and positions form a bipartite multigraph that is ``count``-regular (every rank asks ``count`` positions,
    every position is asked ``count`` times), so it falls apart into ``count`` perfect matchings (Koenig): the variants.
    """
    area = kernel_size[0] * kernel_size[1]
    order = _position_order(kernel_size, count, kss)
    demand = [[0] * area for _ in range(area)]
    for step in range(count * area):
        demand[step // count][order[step % area]] += 1
    variants = []
    for _ in range(count):
        variant = _perfect_matching(demand)
        for rank, position in enumerate(variant):
            demand[rank][position] -= 1
        variants.append(tuple(variant))
    return tuple(variants)
