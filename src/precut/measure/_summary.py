"""The table of a model: what each layer holds and does, beside what it would dense."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from precut.errors import whole
from precut.measure._trace import Call, Trace, compact_weight, missing_bytes, trace
from precut.report import Column, Table, count, percent, si

__all__ = ["LayerRow", "Summary", "summary"]


@dataclass(frozen=True)
class LayerRow:
    """One layer, or one operator without a layer of its own ("attn.matmul").

    Attributes:
        name: path of the module, with the operator's name behind it for one without a module.
        op: canonical name of the operator, or of the module's class.
        support: name of the support ("PS4_P4"); "dense"; "masked 50.0 %" for a simulated one; "" where no weight
            multiplies.
        output_shape: of its first call, batch included.
        params, params_dense: parameters that exist (biases included), and those of the dense layer.
        weights, weights_dense: the same of the weight alone; 0 without a weight that multiplies.
        macs, macs_dense: multiply-adds for one example, over all calls.
        calls: how often its operators ran.
        ran: whether the layer took part in the run at all.
    """

    name: str
    op: str
    support: str
    output_shape: tuple[int, ...]
    params: int
    params_dense: int
    weights: int
    weights_dense: int
    macs: int
    macs_dense: int
    calls: int
    ran: bool


@dataclass(frozen=True)
class Summary:
    """What a model holds and does; ``str()`` is a table.

    Attributes:
        model: the class's name.
        params, params_dense: parameters that exist, each counted once, and those of the dense network.
        bytes, bytes_dense: their size in memory, without buffers.
        macs, macs_dense: multiply-adds for one example, those done and those of the dense network.
        layers: one LayerRow a layer, in execution order.
        batch: examples in the run that was counted; all MACs are divided by it.
        not_counted: operators without a formula: ``{"op", "layer", "calls"}``. Their work is in no number here.
        depth: levels of the module tree that ``str()`` shows; None for all.
    """

    model: str
    params: int
    params_dense: int
    bytes: int
    bytes_dense: int
    macs: int
    macs_dense: int
    layers: list[LayerRow]
    batch: int
    not_counted: list[dict[str, Any]] = field(default_factory=list)
    depth: int | None = None

    def table(self, depth: int | None = None) -> Table:
        """The layers as a Table, folded at ``depth`` levels of the module tree; layers that only hold parameters (such
        as batch norm) are folded by kind."""
        if depth is not None:
            whole("depth (levels of the module tree)", depth)
        rows = _fold_by_kind(self.layers) if depth is None else _fold_by_depth(self.layers, depth)
        columns = [
            Column("name", "layer", align="left"),
            Column("op", align="left"),
            Column("support", align="left"),
            Column("output", align="right"),
            Column("params", format=count, align="right"),
            Column("params_dense", "dense", count, "right"),
            Column("macs", "MACs", si, "right"),
            Column("macs_dense", "dense", si, "right"),
            Column("density", format=percent, align="right"),
        ]
        total = {
            "name": "total",
            "params": self.params,
            "params_dense": self.params_dense,
            "macs": self.macs,
            "macs_dense": self.macs_dense,
        }
        held = self.params / self.params_dense if self.params_dense else 1.0
        done = self.macs / self.macs_dense if self.macs_dense else 1.0
        title = (
            f"{self.model}: {count(self.params)} parameters ({percent(held)} of dense), "
            f"{si(self.macs)} MACs per example ({percent(done)} of dense), counted"
        )
        return Table(rows, columns, title=title, totals=[total], notes=self._notes())

    def _notes(self) -> list[str]:
        notes = []
        if any(row.support.startswith("masked") for row in self.layers):
            notes.append(
                "masked: every weight is still stored and multiplied; precut.from_masks(model) makes the saving real"
            )
        idle = [row.name for row in self.layers if not row.ran]
        if idle:
            more = f" and {len(idle) - 5} more" if len(idle) > 5 else ""
            notes.append(f"did not run: {', '.join(idle[:5])}{more}")
        for item in self.not_counted:
            times = f" ({item['calls']} calls)" if item["calls"] > 1 else ""
            notes.append(
                f"not counted: {item['op']} in {item['layer']}{times}; add a formula with precut.measure.count_macs"
            )
        return notes

    def __str__(self) -> str:
        return str(self.table(self.depth))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def _example_shape(row: LayerRow) -> str | None:
    """The output without its batch, "64x32x32"."""
    return "x".join(map(str, row.output_shape[1:])) or "1" if row.output_shape else None


def _table_row(row: LayerRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "op": row.op if row.calls <= 1 else f"{row.op} ({row.calls} calls)",
        "support": row.support,
        "output": _example_shape(row),
        "params": row.params,
        "params_dense": row.params_dense,
        "macs": row.macs,
        "macs_dense": row.macs_dense,
        "density": row.weights / row.weights_dense if row.weights_dense else None,
    }


def _fold_by_kind(layers: list[LayerRow]) -> list[dict[str, Any]]:
    rows = [_table_row(row) for row in layers if row.macs_dense]
    others: dict[str, list[LayerRow]] = {}
    for row in layers:
        if not row.macs_dense:
            others.setdefault(row.op, []).append(row)
    for op, members in others.items():
        if len(members) == 1:
            rows.append(_table_row(members[0]))
            continue
        rows.append(
            {
                "name": f"{len(members)} x {op}",
                "op": op,
                "support": "",
                "output": "",
                "params": sum(row.params for row in members),
                "params_dense": sum(row.params_dense for row in members),
                "macs": 0,
                "macs_dense": 0,
            }
        )
    return rows


def _fold_by_depth(layers: list[LayerRow], depth: int) -> list[dict[str, Any]]:
    groups: dict[str, list[LayerRow]] = {}
    for row in layers:
        groups.setdefault(".".join(row.name.split(".")[:depth]), []).append(row)
    rows = []
    for name, members in groups.items():
        if len(members) == 1:
            rows.append(_table_row(members[0]))
            continue
        multiplying = [row for row in members if row.macs_dense]
        kinds = Counter(row.op for row in multiplying or members)
        weights = sum(row.weights for row in members)
        weights_dense = sum(row.weights_dense for row in members)
        rows.append(
            {
                "name": name,
                "op": ", ".join(f"{n} x {op}" if n > 1 else op for op, n in kinds.items()),
                "support": ", ".join(dict.fromkeys(row.support for row in multiplying if row.support)),
                "output": _example_shape(members[-1]),
                "params": sum(row.params for row in members),
                "params_dense": sum(row.params_dense for row in members),
                "macs": sum(row.macs for row in members),
                "macs_dense": sum(row.macs_dense for row in members),
                "density": weights / weights_dense if weights_dense else None,
            }
        )
    return rows


@dataclass
class _Held:
    """Parameters of one row."""

    params: int = 0
    params_dense: int = 0
    weights: int = 0
    weights_dense: int = 0
    kind: str = ""
    support: str = ""


def _kind_of(module: nn.Module) -> str:
    """A module's class as an operator's name: BatchNorm2d is "batch_norm", PReLU "prelu"."""
    name = re.sub(r"\d+d$", "", type(module).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()


def _support_name(module: nn.Module) -> str:
    if compact_weight(module) is not None:
        support = getattr(module, "support", None)
        if support is not None:
            return str(support.maker)
        return "sparse" if hasattr(module, "precut_op") else "unstructured"
    mask = getattr(module, "weight_mask", None)
    if isinstance(mask, torch.Tensor):
        return f"masked {percent(float((mask != 0).double().mean()))}"
    return "dense"


def _held_by_row(model: nn.Module, found: Trace) -> dict[str, _Held]:
    """Parameters by row, each counted where it is first found."""
    seen: set[int] = set()
    held: dict[str, _Held] = {}
    for module in model.modules():
        own = {key: value for key, value in module._parameters.items() if value is not None}
        compact = compact_weight(module)
        if compact is not None and isinstance(compact[0], nn.Parameter):
            own["weight"] = compact[0]  # which a parametrization may hold
        if not own:
            continue
        row = held.setdefault(found.names[module], _Held())
        row.kind = row.kind or _kind_of(module)
        row.support = row.support or _support_name(module)
        for key, value in own.items():
            if id(value) in seen:
                continue
            seen.add(id(value))
            dense = value.numel()
            if key in ("weight", "weight_orig") and compact is not None:
                dense = math.prod(compact[1])
            row.params += value.numel()
            row.params_dense += dense
            if value.ndim > 1:
                row.weights += value.numel()
                row.weights_dense += dense
    return held


def _share(total: int, batch: int) -> int:
    """``total / batch`` to the nearest whole number, halves up (an operator may work once for the whole batch)."""
    return (2 * total + batch) // (2 * batch)


def summary(model: nn.Module, example_inputs: Any, depth: int | None = None) -> Summary:
    """Counts what ``model`` holds and does: parameters and multiply-adds, layer by layer, beside the dense network's.

    The model runs once on ``example_inputs``, in eval mode and without gradients; afterwards its modes, buffers and
    the random state are as before. MACs are those of convolutions (of any kind), linear layers, matrix products,
    attention and recurrent layers, functional calls included; normalisation, activations, pooling and additions count
    as 0. Of a sparse layer only the weights on its support count. A layer that runs twice counts its parameters once,
    its MACs twice. What cannot be counted is listed, not passed over. Nothing here is measured: see ``latency``.

    Args:
        model: any module that torch can run.
        example_inputs: a tensor or a tuple of tensors, batch first. MACs are those of the run divided by the batch.
        depth: levels of the module tree that the printed table shows; None for every layer.

    Raises:
        PrecutError: for a model or inputs of the wrong kind, or a model that cannot run on them.
    """
    found = trace(model, example_inputs, "summary")
    held = _held_by_row(model, found)
    layers = _rows(found, held)
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    result = Summary(
        model=type(getattr(model, "_orig_mod", model)).__name__,
        params=sum(row.params for row in layers),
        params_dense=sum(row.params_dense for row in layers),
        bytes=stored,
        bytes_dense=stored + missing_bytes(model),
        macs=sum(row.macs for row in layers),
        macs_dense=sum(row.macs_dense for row in layers),
        layers=layers,
        batch=found.batch,
        not_counted=[{"op": op, "layer": layer, "calls": n} for (op, layer), n in found.not_counted.items()],
        depth=depth,
    )
    result.table(depth)  # a wrong depth is told now, not when it is printed
    return result


def _rows(found: Trace, held: dict[str, _Held]) -> list[LayerRow]:
    calls: dict[str, list[Call]] = {}
    for call in found.calls:
        calls.setdefault(call.layer, []).append(call)
    rows = []
    for name in found.rows:
        mine = calls.get(name, [])
        holds = held.get(name, _Held())
        multiplies = bool(mine)
        rows.append(
            LayerRow(
                name=name,
                op="+".join(dict.fromkeys(call.op for call in mine)) or holds.kind,
                support=holds.support if multiplies and holds.params_dense else "",
                output_shape=mine[0].output if mine else found.outputs.get(name, ()),
                params=holds.params,
                params_dense=holds.params_dense,
                weights=holds.weights if multiplies else 0,
                weights_dense=holds.weights_dense if multiplies else 0,
                macs=_share(sum(call.macs for call in mine), found.batch),
                macs_dense=_share(sum(call.macs_dense for call in mine), found.batch),
                calls=len(mine),
                ran=name in found.ran,
            )
        )
    return rows
