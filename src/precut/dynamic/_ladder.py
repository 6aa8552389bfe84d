"""Ladders: points at budgets, by one order of what goes first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from precut.dynamic._metrics import MEASURED, cost
from precut.dynamic._point import Point
from precut.dynamic._rank import channel_scores
from precut.errors import PrecutError, real, unknown, whole

if TYPE_CHECKING:
    from precut.dynamic._net import DynamicNet

__all__ = ["OPTIONS", "check_ladder", "checked_budgets", "make_ladder", "rank_channels_", "ranked_orders"]

# What ``dyn.ladder`` takes by name.
OPTIONS = ("uniform", "floor", "nested", "absolute", "data", "choices", "threads")
_FLOOR = 0.1
_CHOICES = ("width", "widths", "skip", "resolution", "kss", "align")
_BACK = 16  # blocks that may come back


def make_ladder(
    dyn: DynamicNet,
    budgets: Sequence[float],
    metric: Any = "macs",
    rank: Any = "l1",
    align: int = 8,
    *,
    uniform: bool = False,
    floor: float | Mapping[str, float] = _FLOOR,
    nested: bool = True,
    absolute: bool = False,
    data: Any = None,
    choices: Sequence[Mapping[str, Any] | None] | None = None,
    threads: int | None = 1,
) -> list[Point]:
    """Points at ``budgets``, the largest first; they become the network's ``points``.

    Channels are ranked once, over all dimensions together, and permuted once, so that every subnet is a prefix: the
    most important channels first, within each residue class of structured supports. Blocks of ``align`` channels (and
    whole periods) then go one after the other, the least important of the whole network first, until a budget is met
    (then, where costs are counted, the last few that still fit come back): each subnet lies within the one before.
    Points that were ready before are forgotten if the order changes.

    Args:
        budgets: shares of the full network's cost, in falling order; with ``absolute`` costs themselves.
        metric: "macs", "params", "latency", "energy", or a function from the extracted network to a cost.
        rank: "l1", "l2", "bn", "taylor" (needs ``data``), "synflow", scores by dimension, or None for the present
            order (blocks then go by their place, which makes ladders uniform).
        align: widths are multiples of it where a dimension is wide enough.
        uniform: cut the same share of every dimension.
        floor: share of every dimension that stays, at least (one block stays always); or {dimension: share}, 0.1 for
            those that are not named.
        nested: demand that each point lies within the one before it (which ``choices`` may break).
        data: for "taylor": a Dataset, or batches (images, labels).
        choices: for each budget what else it changes, as keywords of ``dyn.point``: {"resolution": 24}, {"skip": [...]},
            {"kss": 2}; widths then meet the budget.
        threads: of latency and energy.

    Raises:
        PrecutError: budgets that do not fall or cannot be met, and what ``dyn.point`` refuses.
    """
    shares = checked_budgets(budgets, absolute)
    floors = _checked_floors(dyn, floor)
    others = _checked_choices(choices, len(shares))
    whole("align", align)
    if not isinstance(uniform, bool):
        raise PrecutError(f"uniform is true or false; got {uniform!r}")
    scores = rank_channels_(dyn, rank, data)
    chain = _chain(dyn, align, floors, None if uniform else scores)
    known: dict[Point, float] = {}

    def price(point: Point) -> float:
        if point not in known:
            known[point] = cost(dyn, point, metric, threads)
        return known[point]

    full = 1.0 if absolute else price(dyn.full)
    points: list[Point] = []
    for number, share in enumerate(shares):
        base = dyn.point(**others[number])
        points.append(_meet(dyn, base, chain, share * full, price, metric, share, points[-1] if points else None))
    if nested:
        check_ladder(points)
    dyn.prepare(points)
    return points


def check_ladder(points: Sequence[Point]) -> None:
    """Raises a PrecutError unless every point lies within the one before it, and is another."""
    for number, (larger, smaller) in enumerate(itertools.pairwise(points)):
        if larger == smaller:
            raise PrecutError(
                f"points {number} and {number + 1} of the ladder are the same: choose budgets further apart"
            )
        if not smaller.within(larger):
            raise PrecutError(
                f"the ladder is not monotone: point {number + 1} does not lie within point {number}; order points from "
                "large to small, or pass nested=False"
            )


def checked_budgets(budgets: Any, absolute: bool = False) -> list[float]:
    """Budgets as numbers that fall."""
    found = list(budgets) if isinstance(budgets, (list, tuple, np.ndarray)) else []
    good = all(isinstance(item, (int, float, np.number)) and not isinstance(item, bool) and item > 0 for item in found)
    if not found or not good or (not absolute and max(found) > 1):
        what = "costs above 0" if absolute else "shares of the full network's cost, above 0 and at most 1"
        raise PrecutError(f"budgets must be a list of {what}; got {budgets!r}")
    for before, after in itertools.pairwise(found):
        if after >= before:
            raise PrecutError(f"budgets must fall from one to the next; got {after} after {before}")
    return [float(item) for item in found]


def _checked_floors(dyn: DynamicNet, floor: Any) -> dict[str, float]:
    known = dyn.space.widths
    given = dict(floor) if isinstance(floor, Mapping) else dict.fromkeys(known, floor)
    for name, share in given.items():
        if name not in known:
            raise unknown("width dimension in floor", name, known, "dyn.space.widths")
        real("floor", share, 0, 1, what="share of each dimension")
    return {name: given.get(name, _FLOOR) for name in known}


def _checked_choices(choices: Any, count: int) -> list[dict[str, Any]]:
    if choices is None:
        return [{} for _ in range(count)]
    found = list(choices) if isinstance(choices, (list, tuple)) else None
    if found is None or len(found) != count:
        shown = f"{choices!r:.60}" if found is None else len(found)
        raise PrecutError(f"choices needs one entry (or None) for each of the {count} budgets; got {shown}")
    for item in found:
        if item is not None and not isinstance(item, Mapping):
            raise PrecutError(f"each of choices is None or keywords of dyn.point, {{'skip': [...]}}; got {item!r:.60}")
        for name in item or {}:
            if name not in _CHOICES:
                raise unknown("keyword in choices", name, _CHOICES)
    return [dict(item or {}) for item in found]


def rank_channels_(dyn: DynamicNet, rank: Any, data: Any = None) -> dict[str, torch.Tensor] | None:
    """Permutes the channels, the most important first; returns their scores in the new order. None for ``rank`` None."""
    if rank is None:
        return None
    scores = channel_scores(dyn, rank, data)
    orders = ranked_orders(dyn, scores)
    dyn.permute_(orders)
    return {name: scores[name][torch.as_tensor(order)] for name, order in orders.items()}


def ranked_orders(dyn: DynamicNet, scores: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """For each dimension its channels, best first within each residue class; equal scores keep their order. Every
    position keeps the class that it has."""
    orders = {}
    for name, dim in dyn.space.widths.items():
        values = scores[name].numpy()
        order = np.empty(dim.size, np.int64)
        for number in np.unique(dim.classes):
            places = np.flatnonzero(dim.classes == number)
            order[places] = places[np.argsort(-values[places], kind="stable")]
        orders[name] = order.tolist()
    return orders


def _chain(
    dyn: DynamicNet, align: int, floors: Mapping[str, float], scores: Mapping[str, torch.Tensor] | None
) -> list[tuple[str, int]]:
    """(dimension, width that is left) one after the other, as blocks go from the whole network."""
    steps: list[tuple[float, int, str, int]] = []
    for number, (name, dim) in enumerate(dyn.space.widths.items()):
        unit = dyn.space.unit(dim, align)
        edges = [*range(unit, dim.size, unit), dim.size]
        least = max(unit, floors[name] * dim.size)
        for left, right in itertools.pairwise(edges):
            if left < least:
                continue
            value = -right / dim.size if scores is None else float(scores[name][left:right].mean())
            steps.append((value, number, name, left))
    # A dimension's last block goes first, also where scores (a hand-made order) rise towards the end.
    by_dim: dict[str, float] = {}
    keyed = []
    for value, number, name, left in sorted(steps, key=lambda step: (step[1], -step[3])):
        by_dim[name] = max(by_dim.get(name, value), value)
        keyed.append((by_dim[name], number, -left, name, left))
    return [(name, left) for _, _, _, name, left in sorted(keyed)]


def _meet(
    dyn: DynamicNet,
    base: Point,
    chain: Sequence[tuple[str, int]],
    budget: float,
    price: Callable[[Point], float],
    metric: Any,
    share: float,
    above: Point | None,
) -> Point:
    """The largest subnet of the chain that costs no more than the budget, by bisection; where costs are counted, with
    those of its last blocks back that still fit, and that the point ``above`` has."""

    def at(count: int) -> Point:
        sizes = dict(base.widths)
        for name, left in chain[:count]:
            sizes[name] = min(sizes[name], left)
        return dyn.space.check(replace(base, widths=tuple(sizes.items())))

    # A count is exact; a clock may find the whole network dearer than itself.
    slack = 1.02 if metric in MEASURED else 1 + 1e-9
    low, high = 0, len(chain)  # costs at ``high`` are met, if any
    if price(at(low)) <= budget * slack:
        return at(low)
    least = price(at(high))
    if least > budget * slack:
        raise PrecutError(
            f"budget {share:g} cannot be met: the smallest subnet costs {least:.4g} {_unit(metric)}, "
            f"{budget:.4g} are allowed; lower floor or align, or choose a larger budget"
        )
    while high - low > 1:
        middle = (low + high) // 2
        if price(at(middle)) <= budget * slack:
            high = middle
        else:
            low = middle
    found = at(high)
    if metric in MEASURED:
        return found
    for place in range(high - 1, max(-1, high - 1 - _BACK), -1):
        name, left = chain[place]
        before = next((width for owner, width in reversed(chain[:place]) if owner == name), dyn.space.widths[name].size)
        before = min(before, dict(base.widths)[name])
        if found.width(name) != left or (above is not None and before > above.width(name)):
            continue
        larger = replace(found, widths=tuple({**dict(found.widths), name: before}.items()))
        if price(larger) <= budget * slack:
            found = larger
    return found


def _unit(metric: Any) -> str:
    units = {"macs": "MACs", "params": "parameters", "latency": "s", "energy": "J"}
    return units.get(metric, "") if isinstance(metric, str) else ""
