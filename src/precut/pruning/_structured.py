"""Structured pruning: the same scores choose whole parts of a pattern, under the same budget, so that what is left is a
support that fast operators run as dense blocks."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from precut._registry import Registry
from precut.errors import PrecutError, whole
from precut.supports import NM, ClassTable, Periodic, Support, SupportMaker, Unstructured, parse

__all__ = [
    "Blocks",
    "ClassPairs",
    "Decisions",
    "Kernels",
    "SingleWeights",
    "Structure",
    "StructuredNM",
    "StructuredPeriodic",
    "choose",
    "structure_of",
    "structures",
]

structures: Registry[type[Structure]] = Registry("structure", "precut.pruning.structures.names()")


@dataclass(frozen=True, eq=False)
class Decisions:
    """What may be kept or dropped of one layer, as a whole each.

    Attributes:
        group: int64, CPU, of the dense weight's shape: which decision each weight belongs to, from 0.
        support: takes the decisions that are kept (bool, (n,)), gives the layer's support.
    """

    group: torch.Tensor
    support: Callable[[torch.Tensor], Support]

    @property
    def count(self) -> int:
        """How many decisions there are."""
        return int(self.group.max()) + 1

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over each decision's weights of ``values`` (of the dense weight's shape): float64, (n,)."""
        flat = values.detach().to("cpu", torch.float64).flatten()
        return torch.bincount(self.group.flatten(), flat, minlength=self.count)

    def costs(self) -> torch.Tensor:
        """How many weights each decision has: int64, (n,)."""
        return torch.bincount(self.group.flatten(), minlength=self.count)


class Structure(ABC):
    """How a layer's weights are grouped into decisions.

    A new one is a class with ``decisions`` and one registry line, or, where the pattern fixes how many weights there
    are, with ``fixed = True`` and ``best``.
    """

    fixed: ClassVar[bool] = False

    def decisions(self, shape: tuple[int, ...], groups: int) -> Decisions:
        """The decisions of a layer whose dense weight has ``shape``: (out, in // groups, kh, kw) or (out, in)."""
        raise NotImplementedError

    def best(self, scores: torch.Tensor, groups: int) -> Support:
        """The pattern with the highest sum of ``scores`` (of the dense weight's shape); for ``fixed`` ones."""
        raise NotImplementedError

    @abstractmethod
    def __str__(self) -> str:
        """As ``structure_of`` reads it."""


@structures.register("class")
@dataclass(frozen=True)
class ClassPairs(Structure):
    """Every pair of residue classes of channels keeps its own kernel positions: some none, some all.

    Args:
        period: classes of output channels, and of input channels (within a group) unless ``in_period`` says otherwise.
        in_period: classes of input channels.
        align: consecutive output channels of one class.
    """

    period: int
    in_period: int | None = None
    align: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "period", whole("the period of class pairs", self.period))
        if self.in_period is not None:
            object.__setattr__(self, "in_period", whole("the in_period of class pairs", self.in_period))
        object.__setattr__(self, "align", whole("align", self.align))

    def decisions(self, shape: tuple[int, ...], groups: int) -> Decisions:
        rows = min(self.period, math.ceil(shape[0] / self.align))  # no classes that no channel is of
        columns = min(self.in_period or self.period, shape[1])
        area = math.prod(shape[2:])
        out_class = torch.arange(shape[0], device="cpu") // self.align % rows
        in_class = torch.arange(shape[1], device="cpu") % columns
        pair = out_class[:, None] * columns + in_class[None, :]
        group = (pair[..., None] * area + torch.arange(area, device="cpu")).view(shape)

        def support(kept: torch.Tensor) -> Support:
            return ClassTable.of_bits(kept.view(rows, columns, area), self.align).support(shape, groups)

        return Decisions(group, support)

    def __str__(self) -> str:
        inner = f"x{self.in_period}" if self.in_period is not None else ""
        return f"class:{self.period}{inner}" + (f"_A{self.align}" if self.align > 1 else "")


@structures.register("weight")
@dataclass(frozen=True)
class SingleWeights(Structure):
    """No structure: every weight for itself. For budgets that plain pruning does not know."""

    def decisions(self, shape: tuple[int, ...], groups: int) -> Decisions:
        def support(kept: torch.Tensor) -> Support:
            return Unstructured(kept.view(shape)).support(shape, groups)

        return Decisions(torch.arange(math.prod(shape), device="cpu").view(shape), support)

    def __str__(self) -> str:
        return "weight"


@structures.register("kernel")
@dataclass(frozen=True)
class Kernels(Structure):
    """Whole 2-D kernels, each from one input channel to one output channel."""

    def decisions(self, shape: tuple[int, ...], groups: int) -> Decisions:
        kernel = torch.arange(shape[0] * shape[1], device="cpu").view(*shape[:2], *[1] * (len(shape) - 2))

        def support(kept: torch.Tensor) -> Support:
            return Unstructured(kept.view(kernel.shape).expand(shape)).support(shape, groups)

        return Decisions(kernel.expand(shape), support)

    def __str__(self) -> str:
        return "kernel"


@structures.register("block")
@dataclass(frozen=True)
class Blocks(Structure):
    """Blocks of consecutive output channels keep the same weights: a decision is one input channel and one kernel
    position of a block, which fills a vector register.

    Args:
        size: output channels of a block; the last of a layer (or of a group) may be smaller.
    """

    size: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole("the size of blocks", self.size))

    def decisions(self, shape: tuple[int, ...], groups: int) -> Decisions:
        # Not ClassPairs(out / size, in): a block may not reach from one group of channels into the next.
        block = torch.arange(shape[0] // groups, device="cpu") // self.size
        each = int(block[-1]) + 1
        block = (torch.arange(groups, device="cpu")[:, None] * each + block).flatten()
        inner = torch.arange(math.prod(shape[1:]), device="cpu")
        group = (block[:, None] * len(inner) + inner).view(shape)

        def support(kept: torch.Tensor) -> Support:
            if shape[0] // groups % self.size and groups > 1:
                return Unstructured(kept[group]).support(shape, groups)
            return ClassTable.of_bits(kept.view(groups * each, shape[1], -1), self.size).support(shape, groups)

        return Decisions(group, support)

    def __str__(self) -> str:
        return f"block:{self.size}"


@structures.register("periodic")
@dataclass(frozen=True)
class StructuredPeriodic(Structure):
    """A periodic pattern of which each layer chooses its own variants, and which residue is the full kernel.

    The number of weights is the pattern's. Every residue has a variant of its own, so these are more than the
    published tables have; they may lean, since the scores want it.

    Args:
        maker: gives kss, period, full_kernel and align; its own variants and phase do not count.
    """

    maker: Periodic
    fixed: ClassVar[bool] = True

    def best(self, scores: torch.Tensor, groups: int) -> Support:
        maker, shape = self.maker, tuple(scores.shape)
        classes, area, kss = maker.period, math.prod(shape[2:]), maker.kss
        maker.pattern((shape[2], shape[3]) if len(shape) == 4 else (1, 1))  # tells where the kernel is too small
        table = ClassTable([[[]] * classes] * classes, maker.align or 1)
        sums = scores.new_zeros(classes, area, dtype=torch.float64, device="cpu")
        a, b = torch.meshgrid(*[torch.arange(classes, device="cpu")] * 2, indexing="ij")
        sums.index_add_(0, ((a + b) % classes).flatten(), table.pair_sums(scores).view(-1, area))
        order = torch.argsort(sums, dim=1, descending=True, stable=True)[:, :kss]
        # The residue at which a full kernel adds most to its variant gets it; residue 0 is the full one (or, without
        # one, takes the last variant), so the phase moves the chosen residue there.
        first = int((sums.sum(1) - sums.gather(1, order).sum(1)).argmax()) if maker.full_kernel else 0
        others = [(first + step) % classes for step in range(1, classes + (not maker.full_kernel))]
        made = Periodic(
            kss=kss,
            period=classes,
            full_kernel=maker.full_kernel,
            variants=[order[residue].tolist() for residue in others],
            phase=-first,
            align=maker.align,
        )
        return Support(made, shape, groups)  # not made.support(), which warns of what the scores wanted

    def __str__(self) -> str:
        return str(self.maker)


@structures.register("nm")
@dataclass(frozen=True)
class StructuredNM(Structure):
    """N:M whose positions are chosen: at each kernel position, every residue class of outputs (of m) keeps n of the m
    residue classes of inputs, so that every run of m input channels holds n weights.

    Args:
        maker: gives n and m.
    """

    maker: NM
    fixed: ClassVar[bool] = True

    def best(self, scores: torch.Tensor, groups: int) -> Support:
        shape, m = tuple(scores.shape), self.maker.m
        self.maker.check(shape, groups)
        sums = ClassTable([[[]] * m] * m).pair_sums(scores)
        chosen = torch.argsort(sums, dim=1, descending=True, stable=True)[:, : self.maker.n]
        bits = torch.zeros_like(sums, dtype=torch.bool).scatter_(1, chosen, True)
        return ClassTable.of_bits(bits).support(shape, groups)

    def __str__(self) -> str:
        return str(self.maker)


def structure_of(structure: Any) -> Structure:
    """The Structure that is meant: one itself; "class:8" (classes of outputs and inputs; "class:8x4" differ, "_A16" for
    align), "kernel", "block:16", "weight"; or a Periodic or NM maker or its name ("PSD4_P8", "2:4").

    Raises:
        PrecutError: for anything else.
    """
    if isinstance(structure, Structure):
        return structure
    if isinstance(structure, str):
        if match := re.fullmatch(r"class:(\d{1,3})(?:x(\d{1,3}))?(?:_A(\d{1,4}))?", structure):
            return ClassPairs(int(match[1]), int(match[2]) if match[2] else None, int(match[3] or 1))
        if match := re.fullmatch(r"block(?::(\d{1,4}))?", structure):
            return Blocks(int(match[1] or 16))
        if structure in ("kernel", "weight"):
            return Kernels() if structure == "kernel" else SingleWeights()
    maker: Any = None
    if isinstance(structure, (str, SupportMaker)):
        try:
            maker = parse(structure)
        except PrecutError:
            maker = None
    if isinstance(maker, Periodic):
        return StructuredPeriodic(maker)
    if isinstance(maker, NM):
        return StructuredNM(maker)
    raise PrecutError(
        f"unknown structure {structure!r}: choose 'class:<period>' (every pair of residue classes keeps its own "
        "positions), 'kernel', 'block:<output channels>', 'weight', or a Periodic or NM pattern or its name ('PSD4_P8', '2:4')"
    )


def choose(
    structure: Structure,
    scores: Mapping[str, torch.Tensor],
    groups: Mapping[str, int],
    budget: int | Mapping[str, int] | None = None,
    floors: Mapping[str, int] | None = None,
    prices: Mapping[str, float] | None = None,
    masks: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, Support]:
    """The support of each layer that the scores choose.

    Decisions are taken in the order of their score a weight (a unit of price), the highest first and of equal ones the
    first of the first layer; one that no longer fits is passed over. So where all cost the same, no choice within the
    budget has a higher sum of scores; otherwise (of positive scores) the highest sum is ahead by less than the score of
    the first decision that was passed over. Never more than the budget is kept.

    Args:
        structure: see ``structure_of``.
        scores: of the dense weights' shapes, by layer.
        groups: of each layer's convolution.
        budget: weights to keep in all layers together, or in each; None for a structure that fixes it.
        floors: weights that each layer keeps at least (if its decisions reach that far), before layers compete.
        prices: what a weight of each layer costs, in units of the budget; 1 unless given. Output pixels make the budget
            one of multiply-adds.
        masks: what earlier rounds left; a decision none of whose weights is left does not come back.

    Raises:
        PrecutError: when a layer cannot have the structure, or a budget is missing or of no use.
    """
    for name, given in scores.items():
        if given.ndim not in (2, 4):
            raise PrecutError(
                f"layer {name!r} has a weight of shape {tuple(given.shape)}; structures are for linear layers and 2-D "
                f"convolutions: keep it as it is with ignored_layers=[{name!r}]"
            )
    if structure.fixed:
        if budget is not None:
            raise PrecutError(f"structure {str(structure)!r} fixes how many weights there are; leave the density out")
        return {name: _named(name, structure.best, given, groups[name]) for name, given in scores.items()}
    if budget is None:
        raise PrecutError(f"structure {str(structure)!r} needs a density: it can keep any share of the weights")
    made = {name: _named(name, structure.decisions, tuple(given.shape), groups[name]) for name, given in scores.items()}
    kept = {name: torch.zeros(decisions.count, dtype=torch.bool, device="cpu") for name, decisions in made.items()}
    options = {name: _Options(made[name], scores[name], prices, masks, name) for name in made}
    for name, least in (floors or {}).items():
        _take_at_least(options[name], least, kept[name])
    _check_floors(options, kept, budget)
    if isinstance(budget, Mapping):
        for name in made:
            _fill({name: options[name]}, {name: kept[name]}, budget[name])
    else:
        _fill(options, kept, budget)
    return {name: decisions.support(kept[name]) for name, decisions in made.items()}


def _named(name: str, make: Callable[..., Any], *args: Any) -> Any:
    try:
        return make(*args)
    except PrecutError as error:
        raise PrecutError(f"layer {name!r}: {error}") from error


class _Options:
    """The decisions of one layer with what they give and cost."""

    def __init__(
        self,
        decisions: Decisions,
        scores: torch.Tensor,
        prices: Mapping[str, float] | None,
        masks: Mapping[str, torch.Tensor] | None,
        name: str,
    ) -> None:
        self.weights = decisions.costs()
        self.cost = self.weights.double() * (1 if prices is None else prices[name])
        self.rate = decisions.sums(scores) / self.cost
        mask = None if masks is None else masks.get(name)
        self.open = self.weights > 0 if mask is None else decisions.sums(mask) > 0


def _take_at_least(options: _Options, least: int, kept: torch.Tensor) -> None:
    order = torch.argsort(options.rate.where(options.open, -torch.inf), stable=True, descending=True)
    order = order[options.open[order]]
    before = options.weights[order].cumsum(0) - options.weights[order]
    kept[order[before < least]] = True


def _check_floors(
    options: Mapping[str, _Options], kept: Mapping[str, torch.Tensor], budget: int | Mapping[str, int]
) -> None:
    """Raises where the least that layers keep costs more than there is."""
    spent = {name: round(float(one.cost[kept[name]].sum())) for name, one in options.items()}
    if not isinstance(budget, Mapping):
        spent, budget = {"all layers": sum(spent.values())}, {"all layers": budget}
    for name, cost in spent.items():
        if cost > budget[name]:
            raise PrecutError(
                f"min_per_layer takes decisions that cost {cost} in {name}, where the budget is {budget[name]}: lower it, "
                "or take a finer structure or a higher density"
            )


def _fill(options: Mapping[str, _Options], kept: Mapping[str, torch.Tensor], budget: float) -> None:
    """Keeps further decisions, in place, until the budget is used."""
    rate = torch.cat([one.rate for one in options.values()])
    cost = torch.cat([one.cost for one in options.values()])
    free = torch.cat([one.open & ~kept[name] for name, one in options.items()])
    room = budget - sum(float(one.cost[kept[name]].sum()) for name, one in options.items())
    order = free.nonzero().flatten()
    order = order[torch.argsort(rate[order], stable=True, descending=True)]
    chosen = torch.zeros(len(rate), dtype=torch.bool, device="cpu")
    while len(order):
        spent = cost[order].cumsum(0)
        fits = int((spent <= room * (1 + 1e-12)).sum())  # prices may be fractions
        chosen[order[:fits]] = True
        room -= float(spent[fits - 1]) if fits else 0.0
        order = order[fits:]
        order = order[cost[order] <= room * (1 + 1e-12)]
    start = 0
    for name, one in options.items():
        kept[name].logical_or_(chosen[start : start + len(one.rate)])
        start += len(one.rate)
