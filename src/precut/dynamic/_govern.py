"""The governor: which point runs, by what is asked of it now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from precut.deadline import Decision, Selector, Target
from precut.dynamic._net import resized
from precut.dynamic._point import Point
from precut.errors import PrecutError
from precut.measure import Constraints

if TYPE_CHECKING:
    from precut.dynamic._compile import CompiledDynamic

__all__ = ["Governor", "targets"]


class _Run:
    """One compiled point, called from outside."""

    def __init__(self, compiled: CompiledDynamic, point: Point) -> None:
        self._model, self._side = compiled.models[point], point.resolution

    def __call__(self, *inputs: Any) -> Any:
        return self._model(*(inputs if self._side is None else resized(inputs, self._side)))


def targets(compiled: CompiledDynamic, accuracies: Sequence[float]) -> list[Target]:
    """The points as ``deadline.profile`` takes them, named "0", "1", ... in the ladder's order; their memory is that of
    the compiled weights.

    Args:
        accuracies: of each point, from 0 to 1.
    """
    if len(accuracies) != len(compiled.points):
        raise PrecutError(f"targets needs the accuracies of {len(compiled.points)} points; got {len(accuracies)}")
    rows = compiled.bytes().rows
    return [
        Target(str(number), _Run(compiled, point), float(accuracy), rows[number]["packed"] + rows[number]["canonical"])
        for number, (point, accuracy) in enumerate(zip(compiled.points, accuracies, strict=True))
    ]


class Governor:
    """Sets the point of a compiled dynamic network by Constraints; a ``deadline.Selector`` chooses.

    Example::

        profile = deadline.profile(targets(fast, accuracies), x, rounds=1000)
        governor = Governor(fast, Selector(profile.frontier()))
        answer, decision = governor.run(x, Constraints(deadline_s=0.005, min_accuracy=0.8))

    Args:
        compiled: what ``dyn.compile`` returned.
        selector: over points that ``targets`` named (all, or those of a frontier).
    """

    def __init__(self, compiled: CompiledDynamic, selector: Selector) -> None:
        known = {str(number): point for number, point in enumerate(compiled.points)}
        strange = [point.name for point in selector.points if point.name not in known]
        if strange:
            raise PrecutError(
                f"the selector knows a point {strange[0]!r}, this network has {list(known)}: profile the points of "
                "dynamic.targets(compiled, accuracies)"
            )
        self.compiled, self.selector, self._points = compiled, selector, known

    def choose(self, constraints: Constraints, batch: int = 1) -> Decision:
        """Chooses, and sets the network's point. Where the selector drops a request (``decision.point`` is None) the
        point stays.

        Raises:
            PrecutError: limits on energy or memory that the profile does not know.
            InfeasibleError: nothing fits, where the selector was told to raise.
        """
        if not isinstance(constraints, Constraints):
            raise PrecutError(f"choose takes measure.Constraints(...); got {type(constraints).__name__}")
        decision = self.selector.choose(batch=batch, constraints=constraints)
        if decision.point is not None:
            self.compiled.set_point(self._points[decision.point.name])
        return decision

    def run(self, x: Any, constraints: Constraints) -> tuple[Any, Decision]:
        """Chooses, runs, and tells the selector how long it took.

        Returns:
            (the result, or None for a dropped request; the decision).
        """
        started = time.perf_counter()
        decision = self.choose(constraints, int(x.shape[0]))
        if decision.point is None:
            return None, decision
        result = self.compiled(x)
        self.selector.observe(decision, time.perf_counter() - started)
        return result, decision
