"""Energy of one inference and one training step by a published table of costs: a model, not a measurement."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from precut.measure._trace import Call, trace
from precut.measure._traffic import PHASES, traffic_of
from precut.report import Column, Table, percent, si

__all__ = ["HOROWITZ_45NM", "EnergyConstants", "ModelledEnergy", "modelled_energy"]

_PICO = 1e-12


@dataclass(frozen=True)
class EnergyConstants:
    """What one operation costs.

    Attributes:
        source: where the numbers are from.
        mac_pj: picojoules of a 32-bit floating-point multiplication and addition.
        cache_pj_per_byte, dram_pj_per_byte: picojoules of moving a byte.
    """

    source: str
    mac_pj: float
    cache_pj_per_byte: float
    dram_pj_per_byte: float


HOROWITZ_45NM = EnergyConstants(
    source="M. Horowitz, Computing's energy problem, ISSCC 2014, fig. 1.1.9 (45 nm, 0.9 V): 32-bit float product "
    "3.7 pJ, sum 0.9 pJ; 64 bits from a 32 KB cache 20 pJ, from DRAM 1.3 nJ (the low end of 1.3 to 2.6)",
    mac_pj=3.7 + 0.9,
    cache_pj_per_byte=20 / 8,
    dram_pj_per_byte=1300 / 8,
)


@dataclass(frozen=True)
class ModelledEnergy:
    """Joules by a model, for one batch; ``str()`` is a table that says so.

    Attributes:
        batch: examples in the batch.
        constants: the costs used.
        rows: ``{"phase", "part", "kept", "dense"}`` in joules; the parts are arithmetic, cache and DRAM.
    """

    batch: int
    constants: EnergyConstants
    rows: list[dict[str, Any]]

    def total(self, phase: str) -> tuple[float, float]:
        """(kept, dense) joules of "inference" or "training"."""
        mine = [row for row in self.rows if row["phase"] == phase]
        return sum(row["kept"] for row in mine), sum(row["dense"] for row in mine)

    def table(self) -> Table:
        """The rows and both totals as a Table."""
        rows: list[dict[str, Any]] = []
        for phase in PHASES:
            kept, dense = self.total(phase)
            rows += [dict(row) for row in self.rows if row["phase"] == phase]
            rows.append({"phase": phase, "part": "total", "kept": kept, "dense": dense})
        for row in rows:
            row["ratio"] = row["kept"] / row["dense"] if row["dense"] else None
        columns = [
            Column("phase"),
            Column("part"),
            Column("kept", format=_joules, align="right"),
            Column("dense", format=_joules, align="right"),
            Column("ratio", "of dense", percent, "right"),
        ]
        return Table(
            rows,
            columns,
            title=f"modelled energy for a batch of {self.batch} (a model, not a measurement)",
            notes=[f"modelled: {self.constants.source}"],
        )

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {"modelled": True, **asdict(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def _joules(value: float) -> str:
    for factor, unit in ((1e9, "nJ"), (1e6, "uJ"), (1e3, "mJ")):
        if value * factor < 1000:
            return f"{value * factor:#.4g} {unit}"
    return si(value, "J")


def _products(call: Call) -> int:
    """How many products of a forward one's size a training step does: forward, for the data, for the weight."""
    if not call.weight_bytes_dense:  # both operands are data and need gradients
        return 3 - int(call.reads_input)
    return 1 + int(not call.reads_input) + int(call.trains)


def modelled_energy(
    model: nn.Module,
    example_inputs: Any,
    optimizer: str = "sgd_momentum",
    constants: EnergyConstants = HOROWITZ_45NM,
) -> ModelledEnergy:
    """Models the energy of the batch of ``example_inputs``, in one inference and in one training step.

    energy = multiply-adds x cost of one + bytes moved x (cost of a byte from DRAM + of a byte through the cache once).
    The bytes are those of ``traffic``; operands of the multiply-adds come from registers at no cost. Real processors
    differ from this by their instruction overhead, their idle power and their technology: use it to compare networks,
    never as a figure for a machine.

    Args:
        model, example_inputs, optimizer: as in ``traffic``.
        constants: the costs.
    """
    found = trace(model, example_inputs, "modelled_energy")
    moved = traffic_of(found, model, optimizer)
    macs = {
        "inference": (sum(call.macs for call in found.calls), sum(call.macs_dense for call in found.calls)),
        "training": (
            sum(call.macs * _products(call) for call in found.calls),
            sum(call.macs_dense * _products(call) for call in found.calls),
        ),
    }
    rows = []
    for phase, done in macs.items():
        for part, amounts, cost in (
            ("arithmetic", done, constants.mac_pj),
            ("cache", moved.total(phase), constants.cache_pj_per_byte),
            ("DRAM", moved.total(phase), constants.dram_pj_per_byte),
        ):
            kept, dense = (amount * cost * _PICO for amount in amounts)
            rows.append({"phase": phase, "part": part, "kept": kept, "dense": dense})
    return ModelledEnergy(found.batch, constants, rows)
