"""The rounds of a pruning: score, keep the highest, score again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from precut.errors import PrecutError
from precut.pruning._allocation import Allocation, count_of, counts_for, floors_for
from precut.pruning._network import Network
from precut.pruning._registry import scores
from precut.pruning._schedule import exponential, kept_after
from precut.pruning._scores import Score
from precut.pruning._select import Piece, check_scores, keep_above, keep_highest
from precut.pruning._structured import Structure, choose
from precut.supports import Support

__all__ = ["Plan", "run_rounds", "score_of"]

ScoreFunction = Callable[[Network], Mapping[str, torch.Tensor]]
_FEW_LOST = 0.1  # below this share of a layer lost in a round, likewise
_FEW = 0.25  # below this share of survivors their positions are smaller than the scores of all


def score_of(score: str | Score | type[Score] | ScoreFunction) -> tuple[Score | ScoreFunction, str]:
    """The score that is meant, and its name."""
    if isinstance(score, str):
        return scores[score](), score
    if isinstance(score, type) and issubclass(score, Score):
        score = score()
    if isinstance(score, Score):
        named = next((name for name in scores if scores[name] is type(score)), type(score).__name__)
        return score, named
    if callable(score) and not isinstance(score, type):
        return score, getattr(score, "__name__", type(score).__name__)
    raise PrecutError(
        f"score must be one of {', '.join(map(repr, scores))}, a Score, or a function of a Network; got {score!r:.60}"
    )


@dataclass
class Plan:
    """What is kept, in the end and after each round.

    Attributes:
        kept: weights left at the end, in all.
        floors: weights that each layer keeps at least; empty for no such rule.
        acted: layers in which a floor kept weights that would have gone, with how many; filled in by the last round.
        prices: multiply-adds of a weight of each layer, where these are what the numbers above count; else None.
    """

    density: float
    rounds: int
    schedule: Callable[[float, float], float]
    allocation: Allocation
    kept: int
    sizes: dict[str, int]
    final: dict[str, int] | None
    floors: dict[str, int] = field(default_factory=dict)
    acted: dict[str, int] = field(default_factory=dict)
    prices: dict[str, int] | None = None

    @classmethod
    def make(
        cls,
        network: Network,
        density: float | None,
        rounds: int,
        schedule: Callable[[float, float], float],
        allocation: Allocation,
        least: int,
        prices: dict[str, int] | None = None,
    ) -> Plan:
        """The plan for a network; ``density`` None takes the allocation's own densities as they are."""
        density = None if density is None else float(density)
        sizes = {name: layer.size * (prices or {}).get(name, 1) for name, layer in network.layers.items()}
        shares = allocation(network.layers)
        total = sum(sizes.values())
        final: dict[str, int] | None = None
        if density is None:
            if shares is None or allocation.relative:
                raise PrecutError(
                    "density is needed where the allocation gives none of its own; a number above 0, up to 1"
                )
            final = {name: count_of(shares[name], size) for name, size in sizes.items()}
            kept = sum(final.values())
            density = kept / total
        else:
            kept = count_of(density, total)
            if shares is not None:
                final = counts_for(sizes, shares, kept)
        if kept < 1:
            raise PrecutError("the densities leave no weight at all")
        plan = cls(density, rounds, schedule, allocation, kept, sizes, final, prices=prices)
        if least:
            plan.floors = floors_for(network.layers, least, kept, prices)
            if final is not None:
                plan._raise_to_floors(final)
        return plan

    def _raise_to_floors(self, counts: dict[str, int]) -> None:
        """Gives each layer its least, taken from the layers that have the most above theirs."""
        price = self.prices or dict.fromkeys(counts, 1)
        least = {name: floor * price[name] for name, floor in self.floors.items()}
        for name in counts:
            if counts[name] < least[name]:
                self.acted[name] = -(-(least[name] - counts[name]) // price[name])
            while counts[name] < least[name]:
                donor, next_ = sorted(counts, key=lambda other: least[other] - counts[other])[:2]
                ahead = counts[donor] - least[donor] - max(0, counts[next_] - least[next_])
                taken = min(least[name] - counts[name], max(1, ahead))
                counts[donor] -= taken
                counts[name] += taken

    def total_after(self, done: int) -> int:
        """Weights left in all after so many rounds."""
        return kept_after(self.schedule, done, self.rounds, sum(self.sizes.values()), self.kept, self.density)

    def counts_after(self, done: int) -> dict[str, int] | None:
        """Weights left in each layer, or None where all compete."""
        if self.final is None:
            return None
        return {
            name: kept_after(self.schedule, done, self.rounds, size, self.final[name], self.final[name] / size)
            for name, size in self.sizes.items()
        }


def run_rounds(
    network: Network,
    score: Score | ScoreFunction,
    name: str,
    plan: Plan,
    on_round: Callable[[int, int, int], None] | None = None,
    structure: Structure | None = None,
) -> dict[str, Support]:
    """Leaves the masks in ``network.masks``; returns the supports that a structure has chosen, by layer.

    Args:
        on_round: called with (rounds done, rounds in all, weights left).
    """
    shapes = {layer.name: layer.shape for layer in network.layers.values()}
    regrows = bool(getattr(score, "regrows", False))
    survivors = Survivors(network)
    network.cache.clear()
    supports: dict[str, Support] = {}
    for done in range(1, plan.rounds + 1):
        network.round = done - 1
        if structure is not None or regrows:
            network.cache.clear()  # weights may come back that an earlier round dropped
        with network.evaluating():
            given = check_scores(getattr(score, "pieces", score)(network), shapes, f"score {name!r}")
        total, counts = plan.total_after(done), plan.counts_after(done)
        if structure is not None:
            supports = _structured(network, structure, given, plan, done, regrows)
        elif network.official:
            network.masks = _official(given, plan, done)
        else:
            survivors.cut(given, plan, total, counts, regrows, done == plan.rounds)
        del given
        if on_round is not None:
            # Whole parts and the published rule for ties may leave another number than was planned.
            exact = structure is None and not network.official
            on_round(done, plan.rounds, total if exact else sum(int(mask.sum()) for mask in network.masks.values()))
    return supports


def _structured(
    network: Network, structure: Structure, given: dict[str, Piece], plan: Plan, done: int, regrows: bool
) -> dict[str, Support]:
    groups = {name: layer.groups for name, layer in network.layers.items()}
    counts = plan.counts_after(done)
    budget = None if structure.fixed else plan.total_after(done) if counts is None else counts
    scores = {name: piece.whole() for name, piece in given.items()}
    masks = None if regrows else network.masks or None
    supports = choose(structure, scores, groups, budget, None, plan.prices, masks)
    left = {name: supports[name].nnz for name in plan.floors}
    short = {name: floor - left[name] for name, floor in plan.floors.items() if left[name] < floor}
    if done == plan.rounds:
        plan.acted |= short
    if short:
        supports = choose(structure, scores, groups, budget, plan.floors, plan.prices, masks)
    network.masks = {name: support.mask().to(network.layers[name].weight.device) for name, support in supports.items()}
    return supports


def _official(given: dict[str, Piece], plan: Plan, done: int) -> dict[str, torch.Tensor]:
    """The published rule and its arithmetic: k = int((1 - density) N) lowest go, with all that ties with the k-th."""
    share = done / plan.rounds
    # Written as the authors' code computes it, so that k is the same whole number.
    density = plan.density**share if plan.schedule is exponential else 1.0 - (1.0 - plan.density) * share
    scores = {name: piece.whole() for name, piece in given.items()}
    if plan.final is None:
        masks = keep_above(list(scores.values()), int((1.0 - density) * sum(plan.sizes.values())))
        return dict(zip(scores, masks, strict=True))
    return {name: keep_above([score], int((1.0 - density) * score.numel()))[0] for name, score in scores.items()}


Counts = dict[str, int]
Masks = dict[str, torch.Tensor]


def _best(
    given: dict[str, Piece], alive: Masks | None, plan: Plan, total: int, counts: Counts | None, last: bool
) -> Masks:
    """Masks of the best weights among those alive."""
    names = list(given)
    if counts is not None:
        return {
            name: keep_highest([given[name]], counts[name], None if alive is None else [alive[name]])[0]
            for name in names
        }
    living = None if alive is None else [alive[name] for name in names]
    free = dict(zip(names, keep_highest([given[name] for name in names], total, living), strict=True))
    left = {name: int(torch.count_nonzero(free[name])) for name in plan.floors}
    short = {name: floor - left[name] for name, floor in plan.floors.items() if left[name] < floor}
    if last:
        plan.acted = short
    if not short:
        return free
    # The best of each layer first, as many as it is to keep at least; then the layers compete for the rest.
    fixed = {
        name: keep_highest([given[name]], plan.floors[name], None if alive is None else [alive[name]])[0]
        for name in names
    }
    open_ = [~fixed[name] if alive is None else alive[name] & ~fixed[name] for name in names]
    rest = keep_highest([given[name] for name in names], total - sum(plan.floors.values()), open_)
    return {name: fixed[name] | extra for name, extra in zip(names, rest, strict=True)}


class Survivors:
    """The weights that are left, as masks while they are many and as positions once they are few."""

    def __init__(self, network: Network) -> None:
        self.network = network
        network.removed, network.places, network.stayed = {}, {}, {}

    def cut(
        self, given: dict[str, Piece], plan: Plan, total: int, counts: Counts | None, regrows: bool, last: bool
    ) -> None:
        """Removes all but the best; those that are gone stay so, unless the score regrows."""
        network = self.network
        if regrows:
            network.masks = _best(given, None, plan, total, counts, last)
        elif not network.places:
            before, network.masks = network.masks, _best(given, network.masks or None, plan, total, counts, last)
            network.removed = _lost(before, network.masks)
            if total <= _FEW * sum(plan.sizes.values()):
                network.places = {name: _positions(mask) for name, mask in network.masks.items()}
        else:
            found = {name: Piece(given[name].at(places)) for name, places in network.places.items()}
            network.stayed = _best(found, None, plan, total, counts, last)
            for name, keep in network.stayed.items():
                gone = network.places[name][~keep].long()
                network.masks[name].view(-1)[gone] = False
                network.removed[name] = gone
                network.places[name] = network.places[name][keep]


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """The flat positions (int32) of what is set. NumPy finds them several times faster than torch."""
    return torch.from_numpy(np.flatnonzero(mask.cpu().numpy()).astype(np.int32)).to(mask.device)


def _lost(before: Masks, after: Masks) -> Masks:
    """The positions that went, of layers that lost few: quicker to set to zero than a mask to multiply by."""
    found = {}
    for name, mask in after.items():
        gone = before[name] ^ mask if before else ~mask
        if np.count_nonzero(gone.cpu().numpy()) < _FEW_LOST * mask.numel():
            found[name] = _positions(gone).long()
    return found
