"""What moves when a support moves: single weights, or the positions of class pairs; and which of them go and come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from precut._registry import Registry
from precut.errors import PrecutError
from precut.layers import SparseLayer
from precut.supports import ClassTable, Support, Unstructured

__all__ = ["UNITS", "GrowthRule", "Units", "drop_and_grow", "growth_rules", "units_of"]

UNITS = ("auto", "weights", "class-pairs")


@dataclass(frozen=True)
class GrowthRule:
    """Which units to let exist in place of the dropped ones.

    Attributes:
        gradient: whether it looks at the gradient of the dense weight.
        wanted: takes that gradient's size for every unit (float64, (n,); None without ``gradient``), the number of
            units and a generator (CPU); gives one number a unit, the most wanted highest.
    """

    gradient: bool
    wanted: Callable[[Tensor | None, int, torch.Generator], Tensor]


growth_rules: Registry[GrowthRule] = Registry("growth rule", "precut.training.growth_rules.names()")


def _largest_gradient(size: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    assert size is not None
    return size


def _random(size: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")


# Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134.
growth_rules.register("rigl")(GrowthRule(True, _largest_gradient))
# Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity", 2018.
growth_rules.register("set")(GrowthRule(False, _random))


class Units:
    """The units of one layer.

    Attributes:
        kept: bool, (n,): which exist.
        cost: int64, (n,): how many weights each is; 0 for one that no channel of the layer has.
    """

    kept: Tensor
    cost: Tensor

    def size(self, dense: Tensor) -> Tensor:
        """The root mean square of ``dense`` (of the dense weight's shape) over each unit: float64, (n,), CPU."""
        raise NotImplementedError

    def support(self, kept: Tensor) -> Support:
        """The support of which these units exist."""
        raise NotImplementedError


class Weights(Units):
    """Every weight is a unit."""

    def __init__(self, support: Support) -> None:
        self._support = support
        self.kept = support.mask().flatten()
        self.cost = torch.ones(support.numel, dtype=torch.int64, device="cpu")

    def size(self, dense: Tensor) -> Tensor:
        return dense.detach().to("cpu", torch.float64).abs().flatten()

    def support(self, kept: Tensor) -> Support:
        shape = self._support.shape
        return Unstructured(kept.view(shape)).support(shape, self._support.groups)


class ClassPairs(Units):
    """Every kernel position of every pair of residue classes is a unit."""

    def __init__(self, support: Support, table: ClassTable) -> None:
        self._support, self._table = support, table
        area = math.prod(support.kernel_size)
        bits = table.bits(area)
        self.kept = bits.flatten()
        self.cost = table.pair_sizes(support.shape).unsqueeze(2).expand_as(bits).flatten()

    def size(self, dense: Tensor) -> Tensor:
        squares = self._table.pair_sums(dense.detach().double() ** 2).flatten()
        return (squares / self.cost.clamp(min=1)).sqrt()

    def support(self, kept: Tensor) -> Support:
        bits = kept.view(self._table.out_classes, self._table.in_classes, -1)
        return ClassTable.of_bits(bits, self._table.align).support(self._support.shape, self._support.groups)


def units_of(layer: SparseLayer, unit: str, period: int | None) -> Units:
    """The units of a layer as its support is now.

    Args:
        unit: "weights", "class-pairs", or "auto": class pairs where the support is structured.
        period: make structured supports' classes finer, to a multiple of this many, first.

    Raises:
        PrecutError: for class pairs of a support without them.
    """
    table = layer.support.table
    if unit == "weights" or (unit == "auto" and table is None):
        return Weights(layer.support)
    if table is None:
        raise PrecutError(
            f"the support {layer.support.maker} has no class pairs; unit='weights' (or 'auto') moves its weights"
        )
    if period is not None:
        table = table.repeated(period, period)
    return ClassPairs(layer.support, table)


def drop_and_grow(
    kept: Tensor, cost: Tensor, budget: int, share: float, strength: Tensor, wanted: Callable[[], Tensor]
) -> Tensor:
    """The units that exist after one move: bool, (n,). Never more than ``budget`` weights.

    The weakest units go, as many as fit in ``share`` of the present weights; then the most wanted of all that do not
    exist come, those included that just went, as long as they fit in the budget. Equals are taken in their order.

    Args:
        kept: bool, (n,): which exist.
        cost: int64, (n,): weights of each; 0 for what the layer does not have, which stays as it is.
        budget: weights of the layer.
        share: of the present weights that may go.
        strength: (n,): the weakest go.
        wanted: gives (n,) numbers; the highest come. Not called when nothing goes or comes.
    """
    real = cost > 0
    living = (kept & real).nonzero().flatten()
    least, most = (int(cost[real].min()), int(cost[real].max())) if bool(real.any()) else (1, 1)
    leave = math.floor(share * int(cost[living].sum()))
    if least == most:
        dropped = _lowest(living, strength, leave // least)
    else:
        order = living[torch.argsort(strength[living], stable=True)]
        dropped = order[cost[order].cumsum(0) <= leave]
    after = kept.clone()
    after[dropped] = False
    room = budget - int(cost[after].sum())
    free = (~after & real).nonzero().flatten()
    if not len(free) or room < int(cost[free].min()):
        return after
    if least == most:
        after[_lowest(free, -wanted(), room // least)] = True
        return after
    order = free[torch.argsort(wanted()[free], stable=True, descending=True)]
    for unit, weights in zip(order.tolist(), cost[order].tolist(), strict=True):
        if room < least:
            break
        if weights <= room:
            after[unit] = True
            room -= weights
    return after


def _lowest(units: Tensor, values: Tensor, count: int) -> Tensor:
    """The ``count`` of ``units`` with the lowest ``values``, of equal ones those that come first; in their order."""
    if count >= len(units) or count < 1:
        return units[:count]
    numbers = values[units]
    threshold = torch.kthvalue(numbers, count).values
    chosen = numbers < threshold
    tied = (numbers == threshold).nonzero().flatten()
    chosen[tied[: count - int(chosen.sum())]] = True
    return units[chosen]
