"""Picks an operating point for the time that is left, and keeps its promises as often as it was told to."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Sequence
from typing import Any

from precut.deadline._decision import FITS, FREE, INFEASIBLE, PROBE, WITHHELD, Decision, InfeasibleError
from precut.deadline._frontier import Frontier
from precut.deadline._ledger import Ledger, SelectorStats
from precut.deadline._point import Point
from precut.deadline._scores import Scores
from precut.deadline._tables import Table, Tables
from precut.errors import PrecutError, real, unknown, whole
from precut.measure import Constraints

__all__ = ["Selector"]

_INFEASIBLE = ("smallest", "drop", "raise")
_MODES = ("conformal", "static")
_NONE = "no operating point meets what was asked for (accuracy, energy, memory, points left out)"
# A slow-down beyond a thousandfold is taken for a thousandfold: one outcome must not blind the selector for long.
_LEVELS = math.log(1000.0)
_FOREVER = 1e300  # seconds; infinite ones would admit points that were not measured
_HIGHEST = 1e6  # score; what is later than that must not make the next bounds overflow
_SEEDED = 50  # profile samples of each point that the window begins with


class Selector:
    """Chooses the most accurate point that will be ready in time, and learns from every outcome.

    A point is admitted if its calibrated time fits what is left: its profiled time x the present slow-down x the
    (1 - alpha) quantile of recent scores. A broken promise lowers alpha by gamma; every round in which a promise could be
    made raises it by gamma x miss_budget; while it is not above 0 nothing is promised (Gibbs and Candes, "Adaptive
    conformal inference under distribution shift", 2021). Therefore, **for any sequence of latencies, a hostile one
    included, after every number T of rounds**::

        broken <= miss_budget * T + (alpha_1 + gamma) / gamma

    where alpha_1 is the first alpha; with promises of which up to m wait for their outcome at once, gamma in the bracket
    is m gamma. This is a statistical promise and no worst-case execution time, for a server that does one thing at a
    time. Promises withheld are counted: never to promise is no way to keep promises.

    Every method may be called from several threads.

    Args:
        frontier: a Frontier (its time statistic is used) or a list of points (by their p99 bounds).
        miss_budget: share of the promises that may be broken.
        gamma: step of the calibration: a larger one reacts faster and withholds more.
        mode: "conformal"; or "static": admit what fits by the profiled time, learn nothing, promise always. Static
            guarantees nothing.
        infeasible: when nothing fits, run the "smallest" (quickest) point as the best effort, "drop" the request
            (``decision.point`` is None), or "raise" InfeasibleError.
        reserve_s: seconds kept free before every deadline, for what happens around the call.
        alpha: the first alpha; by default the miss budget.
        alpha_most: the highest alpha, by default 5 miss budgets. It limits what a quiet time saves up for a rough one.
        window: scores that are remembered.
        shrink: own scores of a point that weigh as much as all pooled ones.
        follow: how fast the present slow-down follows outcomes that are slower, and quicker, than it: two shares, 0 for
            never, 1 for at once.
        hold: kept promises before a step up to a more accurate point; 0 for none. A step down is at once.
        margin: the share by which a point's time may still grow when it is stepped up to.
        probe_every: each so many rounds a more accurate point with few recent outcomes (under ``shrink``), or the
            quickest one where the request would be dropped or raise, may be run without a promise, to learn its time;
            0 for never.
        outstanding: decisions that may wait for their outcome; a promise that is older counts as broken.

    Raises:
        PrecutError: no points, or arguments outside their ranges.
    """

    def __init__(
        self,
        frontier: Frontier | Sequence[Point],
        miss_budget: float = 0.01,
        gamma: float = 0.005,
        *,
        mode: str = "conformal",
        infeasible: str = "smallest",
        reserve_s: float = 0.0,
        alpha: float | None = None,
        alpha_most: float | None = None,
        window: int = 1000,
        shrink: float = 20.0,
        follow: tuple[float, float] = (0.2, 0.1),
        hold: int = 0,
        margin: float = 0.0,
        probe_every: int = 100,
        outstanding: int = 1024,
    ) -> None:
        points = list(frontier)
        if not points:
            raise PrecutError("a selector needs at least one operating point; the frontier is empty")
        if mode not in _MODES:
            raise unknown("mode", mode, _MODES)
        if infeasible not in _INFEASIBLE:
            raise unknown("way of the infeasible", infeasible, _INFEASIBLE)
        self.miss_budget = real("miss_budget", miss_budget, 0, 1)
        self.gamma = real("gamma", gamma, 1e-9, 1)
        self.alpha_first = self.miss_budget if alpha is None else real("alpha", alpha, 0, 1)
        most = min(1.0, max(5 * self.miss_budget, self.alpha_first)) if alpha_most is None else alpha_most
        self.alpha_most = real("alpha_most", most, self.alpha_first, 1)
        self.mode = mode
        self.infeasible = infeasible
        self.reserve_s = real("reserve_s", reserve_s, 0)
        self.window = whole("window", window, 10)
        self.shrink = real("shrink", shrink, 0)
        if not isinstance(follow, (tuple, list)) or len(follow) != 2:
            raise PrecutError(f"follow must be two shares from 0 to 1, for slower and quicker outcomes; got {follow!r}")
        self._up, self._down = (real("follow", share, 0, 1) for share in follow)
        self.hold = whole("hold", hold, 0)
        self.margin = real("margin", margin, 0)
        self.probe_every = whole("probe_every", probe_every, 0)
        self.outstanding = whole("outstanding", outstanding, 1)
        # Most accurate first: the first that fits is the choice.
        self.points = sorted(points, key=lambda point: -point.accuracy)
        self.time = frontier.time if isinstance(frontier, Frontier) else "p99_ucb"
        self._all = range(len(self.points))
        self._tables = Tables(self.points, self.time)
        self._lock = threading.Lock()
        self._learns = mode == "conformal"
        self._ledger = Ledger(
            self.miss_budget, self.gamma, self.alpha_first, self.alpha_most, self._learns, self.outstanding
        )
        self._scores = Scores(len(self.points), self.window, self.shrink)
        self._level = 0.0  # logarithm of the present slow-down against the profile
        self._last = -1
        if self._learns:
            self._seed()

    def _seed(self) -> None:
        """Fills the window from the profile, in turns, as if it had been watched."""
        table = self._tables[self._tables.sizes[0]]
        for turn in range(_SEEDED):
            for place in table.by_time:
                samples = self.points[place].samples[table.batch]
                # spread over the whole profile, whatever its length
                seconds = samples[turn * len(samples) // _SEEDED]
                self._scores.add(place, seconds / table.base[place])

    def choose(
        self,
        remaining_s: float | None = None,
        min_accuracy: float | None = None,
        energy_j: float | None = None,
        batch: int = 1,
        *,
        constraints: Constraints | None = None,
        without: Collection[str] = (),
    ) -> Decision:
        """The most accurate point that fits; without a deadline the quickest that is accurate enough.

        Args:
            remaining_s: seconds until the answer is needed, at or below 0 when that has passed; None for no deadline.
            min_accuracy: only points at least this accurate (0 to 1).
            energy_j: only points whose call takes at most this energy.
            batch: examples that are computed in one call; a size between the measured ones counts as the next larger.
            constraints: the same as a record, and throughput and memory; not beside the other arguments.
            without: names of points that are not to be chosen now, because they failed for instance.

        Raises:
            PrecutError: a time that is not a number, a batch beyond the measured ones, an energy limit for points whose
                energy is not known.
            InfeasibleError: nothing fits, where the selector was told to raise.
        """
        memory = None
        if constraints is not None:
            if not (remaining_s is None and min_accuracy is None and energy_j is None):
                raise PrecutError("choose takes either constraints or remaining_s, min_accuracy and energy_j; got both")
            remaining_s, min_accuracy = constraints.deadline_s, constraints.min_accuracy
            energy_j, memory = constraints.energy_j, constraints.memory_bytes
            if constraints.throughput:
                limit = batch / constraints.throughput
                remaining_s = limit if remaining_s is None else min(remaining_s, limit)
        if remaining_s is not None:
            remaining_s = real("remaining_s", remaining_s, what="number of seconds")
        table = self._tables[batch]
        with self._lock:
            if min_accuracy is None and energy_j is None and memory is None:
                allowed: Sequence[int] = self._all
            else:
                allowed = self._allowed(table, min_accuracy, energy_j, memory)
            if without:
                allowed = [place for place in allowed if self.points[place].name not in without]
            if remaining_s is None:
                return self._free(table, batch, allowed, min_accuracy is not None)
            return self._choose(table, batch, remaining_s, allowed)

    def _allowed(
        self, table: Table, min_accuracy: float | None, energy_j: float | None, memory: int | None
    ) -> list[int]:
        if min_accuracy is not None:
            min_accuracy = real("min_accuracy", min_accuracy, what="share from 0 to 1")
        if energy_j is not None:
            energy_j = real("energy_j", energy_j, what="number of joules")
        if energy_j is not None and None in table.energy:
            name = self.points[table.energy.index(None)].name
            raise PrecutError(
                f"the energy of point {name!r} at batch {table.batch} is not known; profile it on a machine with energy "
                "counters, or pass energy_j to its Point"
            )
        if memory is not None and any(point.memory_bytes is None for point in self.points):
            name = next(point.name for point in self.points if point.memory_bytes is None)
            raise PrecutError(f"the memory of point {name!r} is not known; pass memory_bytes to its Point")
        return [
            place
            for place, point in enumerate(self.points)
            if (min_accuracy is None or point.accuracy >= min_accuracy)
            and (energy_j is None or table.energy[place] <= energy_j)  # type: ignore[operator]
            and (memory is None or point.memory_bytes <= memory)  # type: ignore[operator]
        ]

    def _bound(self, place: int, table: Table, slowdown: float) -> float:
        """Seconds that the point is expected to keep, but for a share alpha of calls."""
        base = table.base[place]
        return self._scores.quantile(place, self._ledger.alpha) * base * slowdown if self._learns else base

    def _choose(self, table: Table, batch: int, remaining: float, allowed: Sequence[int]) -> Decision:
        ledger = self._ledger
        number = ledger.next_number()
        slowdown = math.exp(self._level)
        limit = min(remaining - self.reserve_s, _FOREVER)
        if self._learns:
            # The slow-down is the same for all: it is taken out of the limit, not put into every point.
            chosen, bound = self._scores.first_fit(allowed, table.base, ledger.alpha, limit / slowdown)
            bound *= slowdown
        else:
            chosen = next((place for place in allowed if table.base[place] <= limit), -1)
            bound = table.base[chosen] if chosen >= 0 else math.inf
        if self.hold and chosen >= 0:
            chosen, bound = self._held(chosen, bound, table, slowdown, limit, allowed)
        reason = FITS
        promised = True
        if self.probe_every and self._learns and number % self.probe_every == self.probe_every - 1:
            probe = self._probe(chosen, table, slowdown, limit, allowed)
            if probe >= 0:
                ledger.counts["probes"] += 1
                chosen, bound = probe, self._bound(probe, table, slowdown)
                promised, reason = False, PROBE
        if chosen < 0:
            ledger.counts["infeasible"] += 1
            best = next((place for place in table.by_time if place in allowed), -1)
            if self.infeasible == "raise":
                raise InfeasibleError(self._why(remaining, best, table, slowdown))
            if self.infeasible == "drop" or best < 0:
                ledger.counts["dropped"] += 1
                return Decision(None, False, INFEASIBLE, remaining, math.inf, batch, number)
            chosen, bound = best, self._bound(best, table, slowdown)
            promised, reason = False, INFEASIBLE
        elif promised:
            self._last = chosen
            if not ledger.may_promise():
                ledger.withhold()
                promised, reason = False, WITHHELD
        expected = table.base[chosen] * slowdown
        return ledger.issue(
            Decision(self.points[chosen], promised, reason, remaining, bound, batch, number, chosen, expected)
        )

    def _held(
        self, chosen: int, bound: float, table: Table, slowdown: float, limit: float, allowed: Sequence[int]
    ) -> tuple[int, float]:
        """The choice under hysteresis: only ever another *admitted* point, so the guarantee does not change."""
        last = self._last
        if last < 0 or chosen >= last or (self._ledger.run_of_kept >= self.hold and bound * (1 + self.margin) <= limit):
            if chosen != last:
                self._ledger.run_of_kept = 0
            return chosen, bound
        for place in allowed:
            if place >= last:
                lower = self._bound(place, table, slowdown)
                if lower <= limit:
                    return place, lower
        return chosen, bound

    def _probe(self, chosen: int, table: Table, slowdown: float, limit: float, allowed: Sequence[int]) -> int:
        """A more accurate point with few recent outcomes that would typically fit; or the quickest where nothing would
        run, and so nothing ever be learnt; or -1."""
        for place in allowed:
            if place == chosen:
                break
            if len(self._scores.own[place]) < self.shrink and table.middle[place] * slowdown <= limit:
                return place
        if chosen < 0 and self.infeasible != "smallest":
            return next((place for place in table.by_time if place in allowed), -1)
        return -1

    def _free(self, table: Table, batch: int, allowed: Sequence[int], quick: bool) -> Decision:
        ledger = self._ledger
        number = ledger.next_number()
        measured = [place for place in table.by_time if place in allowed]
        if not measured:
            ledger.counts["infeasible"] += 1
            if self.infeasible == "raise":
                raise InfeasibleError(_NONE)
            ledger.counts["dropped"] += 1
            return Decision(None, False, INFEASIBLE, math.inf, math.inf, batch, number)
        ledger.counts["free"] += 1
        chosen = measured[0] if quick else min(measured)
        slowdown = math.exp(self._level)
        bound, expected = self._bound(chosen, table, slowdown), table.base[chosen] * slowdown
        return ledger.issue(
            Decision(self.points[chosen], False, FREE, math.inf, bound, batch, number, chosen, expected)
        )

    def _why(self, remaining: float, best: int, table: Table, slowdown: float) -> str:
        if best < 0:
            return _NONE
        needs = 1e3 * (self._bound(best, table, slowdown) + self.reserve_s)
        return f"{1e3 * remaining:.3f} ms are left, and the quickest point, {self.points[best].name!r}, needs {needs:.3f} ms"

    def observe(self, decision: Decision, seconds: float) -> None:
        """Tells how long a chosen point took; every decision with a point must be told of once.

        Args:
            decision: as ``choose`` gave it.
            seconds: from ``choose`` to the answer; infinite if there was none (an error, a hang): a promise is then
                broken, and no time is learnt.

        Raises:
            PrecutError: a time that is no number or negative, or a decision that is not waiting for its outcome.
        """
        seconds = real("seconds", seconds, 0)
        with self._lock:
            self._ledger.take(decision, seconds)
            if not self._learns or seconds == math.inf:
                return
            place = decision.place
            self._scores.add(place, min(seconds / decision.expected_s, _HIGHEST))
            away = math.log(max(seconds, 1e-9) / self._tables[decision.batch].middle[place]) - self._level
            level = self._level + (self._up if away > 0 else self._down) * away
            self._level = min(_LEVELS, max(-_LEVELS, level))

    @property
    def alpha(self) -> float:
        """The present level of the calibration; promises are withheld while it is not above 0."""
        return self._ledger.alpha

    @property
    def slowdown(self) -> float:
        """How slow the machine is now, as a multiple of the profile."""
        return math.exp(self._level)

    @property
    def batches(self) -> list[int]:
        """The batch sizes that were measured, ascending."""
        return list(self._tables.sizes)

    @property
    def stats(self) -> SelectorStats:
        """What was done so far."""
        with self._lock:
            return self._ledger.stats()

    def bounds(self, batch: int = 1) -> dict[str, float]:
        """Seconds that each point is now expected to keep in a call of ``batch`` examples, by name."""
        table = self._tables[batch]
        with self._lock:
            slowdown = math.exp(self._level)
            return {self.points[place].name: self._bound(place, table, slowdown) for place in table.by_time}

    def state_dict(self) -> dict[str, Any]:
        """All that was learnt and counted, as JSON-able data. Promises that still wait for their outcome count as broken
        in it: whoever restores it will not hear of them."""
        with self._lock:
            return {
                **self._identity(),
                "ledger": self._ledger.state(),
                "scores": self._scores.state(),
                "level": self._level,
                "last": self._last,
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` gave; what waits for its outcome here is forgotten.

        Raises:
            PrecutError: the state of a selector with other points, budget, gamma, first alpha or mode, or a damaged one;
                nothing is changed then.
        """
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise PrecutError(f"this state is another selector's: its {key} is {state.get(key)!r}, here {value!r}")
        scores = Scores(len(self.points), self.window, self.shrink)
        try:
            for place, score in state["scores"]:
                scores.add(int(place), float(score))
            ledger = self._ledger.restored(state["ledger"])
            level, last = float(state["level"]), int(state["last"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise PrecutError(f"this selector state is damaged: {type(error).__name__} {error}") from None
        with self._lock:
            self._scores, self._ledger, self._level, self._last = scores, ledger, level, last

    def _identity(self) -> dict[str, Any]:
        return {
            "format": "precut-selector-1",
            "points": [point.name for point in self.points],
            "miss_budget": self.miss_budget,
            "gamma": self.gamma,
            "mode": self.mode,
            "alpha_first": self.alpha_first,
        }
