"""Bytes on disk: the values, and what it costs to say where they belong in each of the usual forms."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from precut.layers import SparseLayer, scattered
from precut.measure._inputs import check_model
from precut.measure._trace import place_of
from precut.report import Column, Table, byte_size
from precut.supports import Periodic, Support

__all__ = ["Storage", "StorageRow", "storage"]


@dataclass(frozen=True)
class StorageRow:
    """Bytes of one layer's weight; ``None`` where a form does not apply, 0 for dense layers, which need no index.

    Attributes:
        name, support: of the layer.
        weights, weights_dense: how many exist, and in the dense layer.
        values, values_dense: bytes of them.
        csr: index of compressed sparse rows, a row a filter: each weight's column in the fewest whole bytes (1, 2, 4 or
            8) that hold the last column, and a pointer for each row and one more in the fewest that hold the count.
        codes: for each 2-D kernel the number of its support among those of equal size, ceil(log2 C(kh kw, n)) bits;
            where kernels differ in n, ceil(log2 of how many n there are) bits more for each kernel.
        bitmask: one bit for each dense weight.
        periodic: P masks of kh kw bits (P_out P_in for a class table that is not periodic), once for the network.
        spec: the JSON that precut itself writes into a model file for this layer.
    """

    name: str
    support: str
    weights: int
    weights_dense: int
    values: int
    values_dense: int
    csr: int
    codes: int
    bitmask: int
    periodic: int | None
    spec: int


@dataclass(frozen=True)
class Storage:
    """Bytes of a model on disk; ``str()`` is a table.

    Attributes:
        rows: one a layer with a weight that multiplies.
        other: bytes of all other parameters and buffers (biases, normalisation).
    """

    rows: list[StorageRow]
    other: int

    def total(self, form: str) -> int | None:
        """Bytes of the whole model with one form of index: "dense", "csr", "codes", "bitmask", "periodic" or "spec";
        None where a layer does not have that form."""
        if form == "dense":
            return self.other + sum(row.values_dense for row in self.rows)
        index = [getattr(row, form) for row in self.rows]
        return None if None in index else self.other + sum(row.values for row in self.rows) + sum(index)

    def table(self) -> Table:
        """The rows as a Table."""
        forms = ("csr", "codes", "bitmask", "periodic", "spec")
        columns = [
            Column("name", "layer", align="left"),
            Column("support", align="left"),
            Column("weights", format=",", align="right"),
            Column("values", format=byte_size, align="right"),
            Column("values_dense", "dense", byte_size, "right"),
            *(Column(form, {"csr": "CSR"}.get(form, form), byte_size, "right") for form in forms),
        ]
        rows = [
            {key: getattr(row, key) for key in ("name", "support", "weights", "values", "values_dense", *forms)}
            for row in self.rows
        ]
        rows.append({"name": "(all else)", "values": self.other, "values_dense": self.other, "support": ""})
        totals = [
            {
                "name": "file",
                "values": self.other + sum(row.values for row in self.rows),
                "values_dense": self.total("dense"),
                **{form: self.total(form) for form in forms},
            }
        ]
        notes = ["CSR to spec: bytes of the index alone; in the last line with the values. spec is what precut writes."]
        return Table(rows, columns, title="bytes on disk, counted", totals=totals, notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, with the totals of each form."""
        forms = ("dense", "csr", "codes", "bitmask", "periodic", "spec")
        return {
            "rows": [vars(row) for row in self.rows],
            "other": self.other,
            "totals": {form: self.total(form) for form in forms},
        }

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def _width(largest: int) -> int:
    """The fewest whole bytes of 1, 2, 4, 8 that hold ``largest``."""
    return next(size for size in (1, 2, 4, 8) if largest < 256**size)


def _csr(support: Support) -> int:
    columns = support.numel // support.shape[0]
    return support.nnz * _width(columns - 1) + (support.shape[0] + 1) * _width(support.nnz)


def _codes(support: Support) -> int:
    area = math.prod(support.kernel_size)
    counts = support.mask().reshape(-1, area).sum(1)
    sizes, kernels = torch.unique(counts, return_counts=True)
    # (m - 1).bit_length() is ceil(log2 m) for m >= 1, in whole numbers.
    bits = sum((math.comb(area, int(n)) - 1).bit_length() * int(k) for n, k in zip(sizes, kernels, strict=True))
    bits += (len(sizes) - 1).bit_length() * int(counts.numel())
    return -(-bits // 8)


def _periodic(support: Support, written: set[Any]) -> int | None:
    table = support.table
    if table is None:
        return None
    area = math.prod(support.kernel_size)
    maker = support.maker
    if isinstance(maker, Periodic):
        key: Any = ("periodic", maker.pattern(support.kernel_size), support.kernel_size, maker.align)
        masks = maker.period
    else:
        key = ("table", table, support.kernel_size)
        masks = table.out_classes * table.in_classes
    if key in written:
        return 0
    written.add(key)
    return -(-masks * area // 8)


def _spec(name: str, support: Support) -> int:
    entry: Mapping[str, Any] = {
        "maker": support.maker.to_spec(),
        "shape": list(support.shape),
        "groups": support.groups,
    }
    # The file's header is JSON that holds the spec as a string, so quotation marks take two bytes.
    text = json.dumps({name: entry}, sort_keys=True)[1:-1]
    return len(json.dumps(text)) - 2 + len(", ")


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def storage(model: nn.Module) -> Storage:
    """Bytes that ``model`` takes on disk, and those of the index in each of the usual sparse forms.

    The values are those of the state_dict, in their dtypes. What each form costs is spelt out at ``StorageRow``.

    Args:
        model: any module; sparse layers of precut and torch's convolutions and linear layers get rows.
    """
    check_model(model, "storage")
    rows = []
    written: set[Any] = set()
    covered: set[int] = set()
    for name, module in model.named_modules():
        chosen = scattered(module)
        weight: Any = module.parametrizations.weight.original if chosen else getattr(module, "weight", None)
        if not isinstance(module, (SparseLayer, nn.Linear, *_CONVOLUTIONS)) or not isinstance(weight, nn.Parameter):
            continue
        if place_of(weight) in covered:
            continue
        covered.add(place_of(weight))
        size = weight.element_size()
        support = module.support if isinstance(module, SparseLayer) else None
        if chosen is not None:
            support = chosen.maker.support(chosen.dense_shape)
        if support is not None:
            dense = support.numel
            bits = -(-dense // 8)
            index = (_csr(support), _codes(support), bits, _periodic(support, written), _spec(name, support))
            label = str(support.maker)
        else:
            dense, index, label = weight.numel(), (0, 0, 0, 0, 0), "dense"
        rows.append(
            StorageRow(name or "(model)", label, weight.numel(), dense, weight.numel() * size, dense * size, *index)
        )
    other = 0
    for value in model.state_dict(keep_vars=True).values():
        if isinstance(value, torch.Tensor) and place_of(value) not in covered:
            covered.add(place_of(value))
            other += value.numel() * value.element_size()
    return Storage(rows, other)
