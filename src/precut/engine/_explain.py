"""What a compiled model does, layer by layer, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from precut.engine._compiled import NativePart
from precut.engine._inputs import Array
from precut.errors import whole
from precut.report import Column, Table

if TYPE_CHECKING:
    from precut.engine._compiled import CompiledModel

__all__ = ["explain"]

_COLUMNS = (
    Column("name", "layer"),
    Column("op"),
    Column("fused"),
    Column("support"),
    Column("kernel"),
    Column("layout"),
    Column("macs", "MACs", ","),
    Column("us", "us", ".1f"),
    Column("share", "time", ".1%"),
    Column("peak", "of peak", ".0%"),
    Column("weight_bytes", "weight bytes", ","),
    Column("why"),
)


def explain(compiled: CompiledModel, rounds: int, inputs: Array | Sequence[Array] | None) -> Table:
    """See ``CompiledModel.explain``."""
    whole("rounds", rounds, 0)
    if inputs is None:
        tensors = [torch.zeros(value.shape, dtype=value.dtype) for value in compiled._inputs.values]
    else:
        tensors = compiled._inputs.tensors(inputs)
    shapes = _segment_shapes(compiled, tensors)
    for part in compiled.parts:
        if not isinstance(part, NativePart):
            part.seconds = 0.0
    for _ in range(rounds):
        compiled._forward(tensors, clock=True)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for number, part in enumerate(compiled.parts):
        if isinstance(part, NativePart):
            told = part.model.describe(*shapes[number], rounds=rounds)
            rows += _native_rows(part, told)
            note = (
                f"native: {told['isa']}, {told['threads']} threads, autotune {'on' if told['autotune'] else 'off'}, "
                f"libprecut {told['version']}, {told['cpu']}"
            )
            notes += [note] if note not in notes else []
        else:
            row = {"name": part.node.name, "op": part.node.op, "kernel": "torch", "why": part.reason}
            rows.append({**row, "us": part.seconds / rounds * 1e6} if rounds else row)
    total = sum(row["us"] for row in rows if row.get("us") is not None)
    for row in rows:
        if total and row.get("us") is not None:
            row["share"] = row["us"] / total
    fallen = sum(not isinstance(part, NativePart) for part in compiled.parts)
    if fallen:
        notes.append(f"{fallen} operations run in torch, for the reasons given")
    notes.append("MACs are counted (kept weights times positions)" + ("; times are measured" if rounds else ""))
    totals = {"name": "total", "macs": sum(row.get("macs") or 0 for row in rows)}
    totals["weight_bytes"] = sum(row.get("weight_bytes") or 0 for row in rows)
    shown = ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors)
    if total:
        totals["us"] = total
    return Table(rows, _COLUMNS, title=f"compiled for inputs {shown}", totals=[totals], notes=notes)


def _segment_shapes(compiled: CompiledModel, tensors: Sequence[torch.Tensor]) -> dict[int, list[tuple[int, ...]]]:
    """Part number to the shapes that enter it, from one forward."""
    shapes: dict[int, list[tuple[int, ...]]] = {}
    for part in compiled.parts:
        if isinstance(part, NativePart):
            part.seen = None
    compiled._forward(tensors)
    for number, part in enumerate(compiled.parts):
        if isinstance(part, NativePart):
            assert part.seen is not None
            shapes[number] = part.seen
    return shapes


def _native_rows(part: NativePart, told: dict[str, Any]) -> list[dict[str, Any]]:
    first = len(part.segment.inputs)
    peak = told.get("peak_gflops_a_thread", 0) * told["threads"]
    rows = []
    for step, op in zip(part.segment.steps, told["ops"][first:], strict=False):
        act = [step.act.kind] if step.act.kind != "none" and step.op != "activation" else []
        row = {
            "name": step.name,
            "op": op["op"] if step.op != "activation" else step.act.kind,
            "fused": " ".join([*act, *(["add"] if step.residual is not None else [])]),
            "support": op.get("support"),
            "kernel": op["kernel"],
            "layout": op.get("layout"),
            "macs": op["macs"] * told["batch"] or None,
            "weight_bytes": op.get("weight_bytes") or None,
            "why": op.get("why"),
        }
        us = op.get("us")
        if us is not None:
            row["us"] = us
            if peak and us and op["macs"]:
                row["peak"] = 2 * row["macs"] / (us * 1e3) / peak
        rows.append(row)
    return rows
