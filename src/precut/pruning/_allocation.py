"""How much each layer keeps: an allocation gives relative densities, which are brought to an exact number of weights."""

from __future__ import annotations

import fnmatch
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from precut.errors import PrecutError, real, unknown
from precut.pruning._network import Layer
from precut.pruning._registry import allocations

__all__ = ["Allocation", "GivenDensities", "allocation_of", "count_of", "counts_for", "floors_for"]

Layers = Mapping[str, Layer]


class Allocation(ABC):
    """A rule for the layers' densities. It knows nothing of scores.

    Attributes:
        relative: whether its numbers are densities only once they are scaled to meet one.
    """

    relative: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, layers: Layers) -> dict[str, float] | None:
        """A number for each layer to which its density is proportional (never above 1), or None where the scores of all
        layers compete."""


class _Global(Allocation):
    """All weights of the network compete."""

    def __call__(self, layers: Layers) -> dict[str, float] | None:
        return None


class _Uniform(Allocation):
    """Every layer has the same density."""

    relative: ClassVar[bool] = True

    def __call__(self, layers: Layers) -> dict[str, float] | None:
        return dict.fromkeys(layers, 1.0)


class _ErdosRenyi(Allocation):
    """Density proportional to (inputs + outputs) / (inputs x outputs) of a layer (Mocanu et al., Nature Communications
    2018)."""

    relative: ClassVar[bool] = True

    def __call__(self, layers: Layers) -> dict[str, float] | None:
        return {name: sum(layer.shape[:2]) / math.prod(layer.shape[:2]) for name, layer in layers.items()}


class _ErdosRenyiKernel(Allocation):
    """The same with the kernel's sides in sum and product (Evci et al., ICML 2020)."""

    relative: ClassVar[bool] = True

    def __call__(self, layers: Layers) -> dict[str, float] | None:
        return {name: sum(layer.shape) / math.prod(layer.shape) for name, layer in layers.items()}


allocations.register("global")(_Global())
allocations.register("uniform")(_Uniform())
allocations.register("erdos-renyi")(_ErdosRenyi())
allocations.register("erdos-renyi-kernel")(_ErdosRenyiKernel())


class GivenDensities(Allocation):
    """Densities by hand.

    Args:
        densities: layer names or globs to numbers from 0 to 1; of several that match, an exact name counts, else the
            first.
    """

    def __init__(self, densities: Mapping[str, float]) -> None:
        self.densities = dict(densities)
        for name, value in self.densities.items():
            real(f"the density of layer {name!r}", value, 0, 1)

    def __call__(self, layers: Layers) -> dict[str, float] | None:
        # A weight that several modules share is a layer under the first one's name; masks may hold all of them.
        names = [*layers, *(alias for layer in layers.values() for alias in layer.aliases)]
        for pattern in self.densities:
            if pattern not in names and not fnmatch.filter(names, pattern):
                raise unknown("prunable layer in allocation", pattern, layers)
        found = {}
        for name in layers:
            match = next(
                (p for p in (name, *self.densities) if p in self.densities and fnmatch.fnmatchcase(name, p)), None
            )
            if match is None:
                raise PrecutError(
                    f"the allocation gives no density for layer {name!r}: add it (names and globs do), or keep the "
                    f"layer dense with ignored_layers=[{name!r}]"
                )
            found[name] = float(self.densities[match])
        return found


def allocation_of(allocation: Any) -> Allocation:
    """The Allocation that is meant: a name, one itself, ``{layer: density}``, ``{layer: mask}``, or a report of an
    earlier pruning (its layers' densities)."""
    if isinstance(allocation, Allocation):
        return allocation
    if isinstance(allocation, str):
        return allocations[allocation]
    kept, dense = getattr(allocation, "kept", None), getattr(allocation, "dense", None)
    if isinstance(kept, Mapping) and isinstance(dense, Mapping):
        return GivenDensities({name: kept[name] / dense[name] for name in kept})
    if isinstance(allocation, Mapping) and allocation:
        masks = [isinstance(value, torch.Tensor) for value in allocation.values()]
        if all(masks):
            return GivenDensities({name: float((m != 0).sum()) / m.numel() for name, m in allocation.items()})
        if not any(masks):
            return GivenDensities(allocation)
    raise PrecutError(
        f"allocation must be one of {', '.join(map(repr, allocations))}, a dict of densities or masks by layer, or the "
        f"report of another pruning; got {type(allocation).__name__} {allocation!r:.60}"
    )


def count_of(share: float, size: int) -> int:
    """How many weights a share of ``size`` is: the fraction rounded up, but not what floats add to a whole number
    (7 / 100 of 100 is 7)."""
    return min(size, math.ceil(share * size * (1 - 1e-12)))


def floors_for(layers: Layers, least: int, total: int, prices: Mapping[str, int] | None = None) -> dict[str, int]:
    """``min_per_layer`` for each layer, at most its size.

    Args:
        total: what may be kept: weights, or what they cost at ``prices``.

    Raises:
        PrecutError: when these alone are more than ``total``.
    """
    floors = {name: min(least, layer.size) for name, layer in layers.items()}
    asked = sum(floor * (prices or {}).get(name, 1) for name, floor in floors.items())
    if asked > total:
        unit = "weights" if prices is None else "multiply-adds"
        raise PrecutError(
            f"min_per_layer={least} asks for {asked} {unit} in {len(floors)} layers; the density leaves {total}"
        )
    return floors


def counts_for(sizes: Mapping[str, int], shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers of weights with the sum ``total``, each layer's density proportional to its share and at most 1.

    Layers that would exceed their size are full, and the others share the rest (as RigL's code does). Fractions go to
    the layers that lose the most by rounding down, the earlier ones first.
    """
    full: set[str] = set()
    exact: dict[str, float] = {}
    while True:
        open_ = {name: shares[name] * size for name, size in sizes.items() if name not in full and shares[name] > 0}
        left = total - sum(sizes[name] for name in full)
        if left > 0 and not open_:
            raise PrecutError(
                f"the allocation has room for {total - left} weights and {total} are to be kept: densities of 0 stay 0"
            )
        scale = left / sum(open_.values()) if open_ else 0.0
        exact = {name: scale * weight for name, weight in open_.items()}
        over = {name for name, weight in exact.items() if weight >= sizes[name]}
        if not over or left <= 0:
            break
        full |= over
    counts = {name: sizes[name] if name in full else math.floor(exact.get(name, 0.0) + 1e-9) for name in sizes}
    missing = total - sum(counts.values())
    order = sorted(exact, key=lambda name: counts[name] - exact[name])
    while missing > 0:
        for name in order:
            if missing and counts[name] < sizes[name]:
                counts[name] += 1
                missing -= 1
    return counts
