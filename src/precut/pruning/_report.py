"""What a pruning left: a table that is also data."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from precut.pruning._paths import Conservation
from precut.report import Column, Table, count, percent
from precut.supports import SupportMaker

__all__ = ["PruneReport"]

_FEW = 3  # live weights: a layer with so few is named


@dataclass(frozen=True)
class PruneReport:
    """The result of a pruning; ``str()`` is a table.

    Attributes:
        score, allocation, schedule, structure: names of what was asked for.
        density: that was asked for; None where the allocation or the structure gave it.
        rounds: scored and cut so many times.
        official: whether the published code's rule was followed.
        kept: weights kept, by layer.
        dense: weights of the dense layer, by layer.
        live: kept weights on some path from an input to an output, by layer; None where the model could not be captured
            (a note says why).
        conservation: how well SynFlow's flow is conserved in what was kept; None likewise.
        held: layers in which ``min_per_layer`` kept weights that would have gone, with how many.
        dead_removed, channels_removed: what ``remove_dead`` took away; None where it was not asked for.
        notes: what else there is to say.
    """

    score: str
    allocation: str
    schedule: str
    density: float | None
    rounds: int
    official: bool
    structure: str | None
    kept: dict[str, int]
    dense: dict[str, int]
    live: dict[str, int] | None
    conservation: Conservation | None
    held: dict[str, int] = field(default_factory=dict)
    dead_removed: int | None = None
    channels_removed: int | None = None
    notes: list[str] = field(default_factory=list)
    makers: dict[str, SupportMaker] = field(default_factory=dict, repr=False)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    groups: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def k(self) -> int:
        """Weights kept in all."""
        return sum(self.kept.values())

    @property
    def size(self) -> int:
        """N, the prunable weights of the dense network."""
        return sum(self.dense.values())

    @property
    def rho(self) -> float:
        """Compression reached, N / k."""
        return self.size / self.k if self.k else math.inf

    @property
    def rho_max(self) -> float:
        """The highest compression that leaves every layer a weight, N / L."""
        return self.size / len(self.dense)

    @property
    def empty(self) -> list[str]:
        """Layers that keep nothing."""
        return [name for name, kept in self.kept.items() if not kept]

    @property
    def warnings(self) -> list[str]:
        """One line for each layer at risk, by name."""
        found = []
        for name, kept in self.kept.items():
            if kept == self.dense[name]:
                continue
            live = None if self.live is None else self.live[name]
            if not kept:
                found.append(f"{name} is empty: nothing flows through it")
            elif live == 0:
                found.append(f"{name} keeps {count(kept)} weights, none of them on a path from input to output")
            elif live is not None and live <= _FEW < self.dense[name]:
                found.append(f"{name} has only {live} weights on paths from input to output")
        return found

    def masks(self) -> dict[str, torch.Tensor]:
        """New bool tensors of the dense weights' shapes, on the CPU, by layer; True where a weight was kept."""
        return {name: maker.make_mask(self.shapes[name], self.groups[name]) for name, maker in self.makers.items()}

    def table(self) -> Table:
        """The layers as a Table."""
        rows = [
            {
                "layer": name,
                "dense": self.dense[name],
                "kept": kept,
                "density": kept / self.dense[name],
                "live": None if self.live is None else self.live[name],
            }
            for name, kept in self.kept.items()
        ]
        total = {
            "layer": "total",
            "dense": self.size,
            "kept": self.k,
            "density": self.k / self.size,
            "live": None if self.live is None else sum(self.live.values()),
        }
        columns = [
            Column("layer", align="left"),
            Column("dense", format=count, align="right"),
            Column("kept", format=count, align="right"),
            Column("density", format=_share, align="right"),
            Column("live", "on a path", count, "right"),
        ]
        rounds = f"{self.rounds} rounds, {self.schedule}" if self.rounds > 1 else "1 round"
        form = f", structure {self.structure}" if self.structure else ""
        title = (
            f"{self.score}, {rounds}, allocation {self.allocation}{form}: {count(self.k)} of {count(self.size)} weights "
            f"kept ({_share(self.k / self.size)}), compression {self.rho:.5g} of at most {self.rho_max:.5g}"
        )
        return Table(rows, columns, title=title, totals=[total], notes=self._lines())

    def _lines(self) -> list[str]:
        lines = []
        if self.official:
            lines.append("official rule: ties at the threshold all go, so fewer may be kept than asked for")
        if self.empty:
            lines.append(f"layer collapse: {len(self.empty)} of {len(self.kept)} layers are empty")
        lines += [f"warning: {text}" for text in self.warnings]
        if self.held:
            shown = ", ".join(f"{name} ({number})" for name, number in self.held.items())
            lines.append(f"min_per_layer kept weights that would have gone: {shown}")
        if self.conservation is not None:
            lines.append(_conserved(self.conservation))
        if self.dead_removed is not None:
            lines.append(
                f"removed as dead: {count(self.dead_removed)} weights, {count(self.channels_removed or 0)} channels; the "
                "outputs are unchanged"
            )
        return [*lines, *self.notes]

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Everything but the masks, as plain data."""
        flow = self.conservation
        return {
            "score": self.score,
            "allocation": self.allocation,
            "schedule": self.schedule,
            "structure": self.structure,
            "density": self.density,
            "rounds": self.rounds,
            "official": self.official,
            "k": self.k,
            "size": self.size,
            "rho": self.rho if self.k else None,
            "rho_max": self.rho_max,
            "kept": dict(self.kept),
            "dense": dict(self.dense),
            "live": None if self.live is None else dict(self.live),
            "empty": self.empty,
            "warnings": self.warnings,
            "held": dict(self.held),
            "conservation": None if flow is None else {"neurons": flow.neurons, "cuts": flow.cuts, "flows": flow.flow},
            "dead_removed": self.dead_removed,
            "channels_removed": self.channels_removed,
            "notes": list(self.notes),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def _share(value: float) -> str:
    return percent(value) if value >= 0.001 or not value else f"{100 * value:.2g} %"


def _conserved(flow: Conservation) -> str:
    if not flow.flow:
        return "no flow: no path leads from an input to an output"
    parts = []
    if flow.neurons is not None:
        parts.append(f"{flow.neurons:.1e} over {count(flow.channels)} channels (flow in and out)")
    if flow.cuts is not None:
        parts.append(f"{flow.cuts:.1e} over {flow.layers_cut} cuts (flow through each and in all)")
    return "synaptic flow is conserved to " + ", ".join(parts) if parts else "synaptic flow: nothing to compare"
