"""Bytes that move between memory and processor for one inference and for one training step: a count, no measurement."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from precut.errors import unknown
from precut.measure._trace import Call, Trace, missing_bytes, trace
from precut.report import Column, Table, byte_size, percent

__all__ = ["OPTIMIZER_STATES", "PHASES", "Traffic", "TrafficRow", "traffic", "traffic_of"]

PHASES = ("inference", "training")

# State tensors that an optimiser keeps for each parameter.
OPTIMIZER_STATES = {"sgd": 0, "sgd_momentum": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class TrafficRow:
    """Bytes of one part: of "inference" or of a "training" step; kept, and in the dense network."""

    phase: str
    part: str
    kept: int
    dense: int


@dataclass(frozen=True)
class Traffic:
    """Bytes moved for one batch; ``str()`` is a table.

    The rules: every operator that multiplies reads its weight and its other operands and writes its result, each once.
    All else (normalisation, activations, pooling, additions) is taken as fused into those and moves nothing, so the
    numbers are lower bounds. In training the gradient of the data reads the weight and the result's gradient and writes
    the operands' gradients (not for an operator that reads the model's input), the gradient of the weight reads the
    operands and the result's gradient and writes itself, and the optimiser reads weight, gradient and state and writes
    weight and state of every parameter that trains.

    Attributes:
        batch: examples in the batch.
        optimizer: a key of ``OPTIMIZER_STATES``.
        rows: inference: weights, activations; training: forward, data gradient, weight gradient, optimizer.
    """

    batch: int
    optimizer: str
    rows: list[TrafficRow]

    def total(self, phase: str) -> tuple[int, int]:
        """(kept, dense) bytes of "inference" or "training"."""
        mine = [row for row in self.rows if row.phase == phase]
        if not mine:
            raise unknown("phase", phase, {row.phase for row in self.rows})
        return sum(row.kept for row in mine), sum(row.dense for row in mine)

    def table(self) -> Table:
        """The rows and the totals of both phases as a Table."""
        rows: list[dict[str, Any]] = []
        for phase in PHASES:
            rows += [_shown(row.phase, row.part, row.kept, row.dense) for row in self.rows if row.phase == phase]
            rows.append(_shown(phase, "total", *self.total(phase)))
        columns = [
            Column("phase"),
            Column("part"),
            Column("kept", format=byte_size, align="right"),
            Column("dense", format=byte_size, align="right"),
            Column("ratio", "of dense", percent, "right"),
        ]
        return Table(
            rows,
            columns,
            title=f"memory traffic for a batch of {self.batch}, optimizer {self.optimizer}, counted",
            notes=["lower bounds: each tensor of a multiplying operator moves once, all else is taken as fused"],
        )

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, with the totals."""
        totals = {phase: dict(zip(("kept", "dense"), self.total(phase), strict=True)) for phase in PHASES}
        return {**asdict(self), "totals": totals}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def _shown(phase: str, part: str, kept: int, dense: int) -> dict[str, Any]:
    return {"phase": phase, "part": part, "kept": kept, "dense": dense, "ratio": kept / dense if dense else None}


def _data_gradient(call: Call, weight: int) -> int:
    if call.reads_input:
        return 0
    # Without a weight both operands are data: each is read for the other's gradient, and both gradients are written.
    again = call.input_bytes if not call.weight_bytes_dense else 0
    return weight + again + call.output_bytes + call.input_bytes


def _weight_gradient(call: Call, weight: int) -> int:
    return weight + call.output_bytes + call.input_bytes if call.trains else 0


def _optimizer_bytes(model: nn.Module, states: int) -> tuple[int, int]:
    kept = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    moves = 3 + 2 * states
    return moves * kept, moves * (kept + missing_bytes(model, trained=True))


def traffic(model: nn.Module, example_inputs: Any, optimizer: str = "sgd_momentum") -> Traffic:
    """Counts the bytes moved for the batch of ``example_inputs``, in one inference and in one training step.

    Args:
        model: any module that torch can run.
        example_inputs: a tensor or a tuple of tensors; activations grow with its batch, weights do not.
        optimizer: "sgd", "sgd_momentum", "adam" or "adamw".
    """
    found = trace(model, example_inputs, "traffic")
    return traffic_of(found, model, optimizer)


def traffic_of(found: Trace, model: nn.Module, optimizer: str) -> Traffic:
    """``traffic`` of a run that was recorded already."""
    if optimizer not in OPTIMIZER_STATES:
        raise unknown("optimizer", optimizer, OPTIMIZER_STATES)

    def both(part: Callable[[Call, int], int]) -> tuple[int, int]:
        return (
            sum(part(call, call.weight_bytes) for call in found.calls),
            sum(part(call, call.weight_bytes_dense) for call in found.calls),
        )

    rows = [
        TrafficRow("inference", "weights", *both(lambda call, weight: weight)),
        TrafficRow("inference", "activations", *both(lambda call, weight: call.input_bytes + call.output_bytes)),
        TrafficRow("training", "forward", *both(lambda call, weight: weight + call.input_bytes + call.output_bytes)),
        TrafficRow("training", "data gradient", *both(_data_gradient)),
        TrafficRow("training", "weight gradient", *both(_weight_gradient)),
        TrafficRow("training", "optimizer", *_optimizer_bytes(model, OPTIMIZER_STATES[optimizer])),
    ]
    return Traffic(found.batch, optimizer, rows)
