"""Promises and what became of them: the part of a selector that its guarantee rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from precut.deadline._decision import Decision
from precut.errors import PrecutError

__all__ = ["COUNTERS", "Ledger", "SelectorStats"]

COUNTERS = (
    "rounds", "promised", "kept", "broken", "forgotten", "withheld", "infeasible", "dropped", "probes", "free",
)  # fmt: skip


@dataclass(frozen=True)
class SelectorStats:
    """What a selector did so far. Every round is a promise, an abstention, or had no deadline.

    Attributes:
        rounds: decisions.
        promised: promises made; those that still wait for their outcome are in neither of the next two.
        kept: promises kept.
        broken: promises broken, the forgotten ones among them.
        forgotten: promises that were never observed; they count as broken.
        withheld: abstentions because the miss budget was spent.
        infeasible: abstentions because nothing fitted.
        dropped: of these, those for which nothing was run.
        probes: abstentions to learn a point's time.
        free: rounds without a deadline.
        most_outstanding: promises that waited for their outcome at once, at most.
        alpha: the present level of the calibration.
        bound: broken promises that there can be at most by now, whatever the latencies were; infinite in static mode.
    """

    rounds: int
    promised: int
    kept: int
    broken: int
    forgotten: int
    withheld: int
    infeasible: int
    dropped: int
    probes: int
    free: int
    most_outstanding: int
    alpha: float
    bound: float

    @property
    def abstentions(self) -> int:
        """Rounds with a deadline and without a promise."""
        return self.withheld + self.infeasible + self.probes


class Ledger:
    """Counts promises and steers alpha by them.

    alpha falls by at most gamma, only when a promise is broken, and promises are made only while it is above 0; so it
    never falls below -m gamma, m being the most promises that wait at once. Summing its steps gives the guarantee that
    :class:`Selector` states. Holding alpha below ``most`` only ever takes from it, and so keeps the guarantee.

    Args:
        budget, gamma, first, most: as in Selector.
        learns: whether alpha moves and promises can be withheld at all.
        room: decisions that may wait for their outcome.
    """

    __slots__ = (
        "alpha", "budget", "counts", "first", "gamma", "learns", "most", "most_outstanding", "pending", "room",
        "run_of_kept", "waiting",
    )  # fmt: skip

    def __init__(self, budget: float, gamma: float, first: float, most: float, learns: bool, room: int) -> None:
        self.budget = budget
        self.gamma = gamma
        self.first = first
        self.most = most
        self.learns = learns
        self.room = room
        self.alpha = first
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.pending: dict[int, Decision] = {}
        self.waiting = 0
        self.most_outstanding = 0
        self.run_of_kept = 0

    def next_number(self) -> int:
        """The number of the round that begins."""
        number = self.counts["rounds"]
        self.counts["rounds"] = number + 1
        return number

    def may_promise(self) -> bool:
        """Whether the budget allows a promise now."""
        return self.alpha > 0.0 or not self.learns

    def withhold(self) -> None:
        """A round in which a promise could have been made but for the budget: it pays a little back."""
        self.counts["withheld"] += 1
        self.alpha = min(self.most, self.alpha + self.gamma * self.budget)

    def issue(self, decision: Decision) -> Decision:
        """Keeps the decision until its outcome is known."""
        pending = self.pending
        pending[decision.number] = decision
        if decision.promised:
            self.counts["promised"] += 1
            self.waiting += 1
            if self.waiting > self.most_outstanding:
                self.most_outstanding = self.waiting
        if len(pending) > self.room:
            oldest = pending.pop(next(iter(pending)))
            if oldest.promised:
                self.counts["forgotten"] += 1
                self._settle(broken=True)
        return decision

    def take(self, decision: Decision, seconds: float) -> None:
        """Books the outcome of a decision.

        Raises:
            PrecutError: it does not wait for one.
        """
        if not isinstance(decision, Decision):
            raise PrecutError(f"observe takes a decision as choose gave it; got {decision!r:.60}")
        if self.pending.get(decision.number) is not decision:
            raise PrecutError(
                f"decision {decision.number} does not wait for an outcome: it was observed before, runs nothing, is "
                f"another selector's, or {self.room} later ones are waiting (see outstanding)"
            )
        del self.pending[decision.number]
        if decision.promised:
            self._settle(seconds > decision.remaining_s)

    def _settle(self, broken: bool) -> None:
        self.waiting -= 1
        self.counts["broken" if broken else "kept"] += 1
        self.run_of_kept = 0 if broken else self.run_of_kept + 1
        if self.learns:
            self.alpha = min(self.most, self.alpha + self.gamma * (self.budget - broken))

    def stats(self) -> SelectorStats:
        """What was done so far."""
        at_once = max(1, self.most_outstanding)
        bound = math.inf
        if self.learns:
            tried = self.counts["promised"] + self.counts["withheld"]
            bound = self.budget * tried + (self.first + at_once * self.gamma) / self.gamma
        return SelectorStats(**self.counts, most_outstanding=self.most_outstanding, alpha=self.alpha, bound=bound)

    def state(self) -> dict[str, Any]:
        """As JSON-able data. Promises that still wait are broken in it: whoever restores it will not hear of them."""
        lost = self.waiting
        counts = dict(self.counts)
        counts["broken"] += lost
        counts["forgotten"] += lost
        return {
            "counts": counts,
            "alpha": self.alpha + (lost * self.gamma * (self.budget - 1) if self.learns else 0.0),
            "most_outstanding": self.most_outstanding,
            "run_of_kept": self.run_of_kept,
        }

    def restored(self, state: dict[str, Any]) -> Ledger:
        """A ledger like this one in the given state."""
        made = Ledger(self.budget, self.gamma, self.first, self.most, self.learns, self.room)
        made.counts = {name: int(state["counts"][name]) for name in COUNTERS}
        made.alpha = float(state["alpha"])
        made.most_outstanding = int(state["most_outstanding"])
        made.run_of_kept = int(state["run_of_kept"])
        return made
