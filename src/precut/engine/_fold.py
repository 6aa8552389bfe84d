"""Folding and fusing within a segment: fewer steps that compute the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from precut.engine._steps import NO_ACT, TAKES_ACT, Step

__all__ = ["fold"]

_WEIGHTED = ("conv2d", "linear")
Floats = npt.NDArray[np.float64]
Rule = Callable[[Step, "_Work"], Step]


def fold(steps: list[Step], kept: Set[int]) -> list[Step]:
    """The steps with affine maps (batch norms), zero pads, residual additions and activations joined to what is before
    or after them.

    Args:
        kept: values that are needed outside: these must still be computed.
    """
    work = _Work([replace(step, inputs=list(step.inputs), args=dict(step.args), fused=[]) for step in steps], kept)
    for rule in (_pads, _affines, _residuals, _activations):
        work.apply(rule)
    return work.steps


class _Work:
    def __init__(self, steps: list[Step], kept: Set[int]) -> None:
        self.steps = steps
        self.kept = kept
        self.maker: dict[int, Step] = {}
        self.uses: Counter[int] = Counter()
        self.done: list[Step] = []

    def apply(self, rule: Rule) -> None:
        """Offers every step to a rule, which returns what takes its place: itself, or the step that it went into."""
        self.maker = {step.output: step for step in self.steps}
        self.uses = Counter(value for step in self.steps for value in step.reads)
        done: list[Step] = []
        self.done = done
        for step in self.steps:
            taken = rule(step, self)
            if taken is not step:
                # At the later place all that the joined step reads has been computed.
                done.remove(taken)
                taken.fused += [step.name, *step.fused]
                del self.maker[taken.output]
                taken.output = step.output
                self.maker[step.output] = taken
            done.append(taken)
        self.steps = done

    def drop(self, step: Step) -> None:
        """Removes a step that was passed already."""
        self.done.remove(step)

    def sole(self, value: int) -> Step | None:
        """The step that makes a value which nothing else reads."""
        return self.maker.get(value) if self.uses[value] == 1 and value not in self.kept else None


def _bare(step: Step | None) -> bool:
    """Whether a step is a layer that ends with its sum."""
    return step is not None and step.op in _WEIGHTED and step.act == NO_ACT and step.residual is None


def _scale(layer: Step, scale: Floats, shift: Floats) -> None:
    """The layer followed by x * scale + shift."""
    assert layer.per_filter is not None
    args = layer.args
    args["weight"] = args["weight"] * np.repeat(scale, layer.per_filter)
    args["bias"] = shift if args["bias"] is None else args["bias"] * scale + shift


def _affines(step: Step, work: _Work) -> Step:
    """An affine map goes into the layer before it; through a max pool where no scale is negative, since the pool
    then picks the same pixels; and into another affine map."""
    if step.op != "affine":
        return step
    before = work.sole(step.inputs[0])
    if before is None or before.act != NO_ACT:
        return step
    scale, shift = step.args["scale"], step.args["shift"]
    if before.op == "affine":
        before.args.update(scale=before.args["scale"] * scale, shift=before.args["shift"] * scale + shift)
        return before
    if before.op == "max_pool" and (scale >= 0).all():
        layer = work.sole(before.inputs[0])
        if layer is not None and _bare(layer):
            _scale(layer, scale, shift)
            return before
    if _bare(before):
        _scale(before, scale, shift)
        return before
    return step


def _pads(step: Step, work: _Work) -> Step:
    """A convolution takes the zero pad before it."""
    pad = work.sole(step.inputs[0]) if step.op == "conv2d" else None
    if pad is not None and pad.op == "pad" and pad.args["value"] == 0:
        sides = tuple(a + b for a, b in zip(pad.args["padding"], step.args["padding"], strict=True))
        step.inputs = list(pad.inputs)
        step.args["padding"] = sides
        step.fused.append(pad.name)
        work.drop(pad)
    return step


def _residuals(step: Step, work: _Work) -> Step:
    """A layer takes the addition after it. Of two, the later: its weights are still to be read then."""
    if step.op != "add" or not step.same_size or step.inputs[0] == step.inputs[1]:
        return step
    first, second = (work.sole(value) for value in step.inputs)
    choices = [layer for layer in (first, second) if layer is not None and _bare(layer)]
    if not choices:
        return step
    taken = max(choices, key=work.steps.index)
    taken.residual = step.inputs[1] if taken is first else step.inputs[0]
    return taken


def _activations(step: Step, work: _Work) -> Step:
    before = work.sole(step.inputs[0]) if step.op == "activation" else None
    if before is None or before.op not in TAKES_ACT or before.act != NO_ACT:
        return step
    before.act = step.act
    return before
