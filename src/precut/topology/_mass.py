"""NN-Mass of any network, by counting links in its captured graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from precut.errors import PrecutError
from precut.graph import Graph, capture
from precut.report import Column, Table, count
from precut.topology._cell import Cell
from precut.topology._concatenation import declared_cells, found_cells
from precut.topology._layers import check_no_cycle
from precut.topology._residual import addition_cells
from precut.topology._sources import Sources

__all__ = ["NNMass", "as_graph", "count_cells", "nn_mass", "of_cells"]


@dataclass(frozen=True)
class NNMass:
    """NN-Mass of a network; ``float()`` is the mass, ``str()`` a table of its cells.

    Attributes:
        mass: the sum over cells.
        density: one number a cell: links over possible links.
        degree: mean number of channels that a channel of the cells reads. It grows with width where mass does not.
        cells: what was counted, in execution order.
        model: the class's name.
    """

    mass: float
    density: tuple[float, ...]
    degree: float
    cells: tuple[Cell, ...]
    model: str = ""

    def __float__(self) -> float:
        return self.mass

    def table(self) -> Table:
        """One row for each cell."""
        number = "{:.6g}".format
        columns = [
            Column("name", "cell", align="left"),
            Column("kind", align="left"),
            Column("depth", align="right"),
            Column("width", format=number, align="right"),
            Column("links", format=count, align="right"),
            Column("possible", format=count, align="right"),
            Column("density", format=".4f", align="right"),
            Column("mass", format=number, align="right"),
            Column("degree", format=number, align="right"),
        ]
        keys = [column.key for column in columns]
        rows = [{key: cell.to_dict()[key] for key in keys} for cell in self.cells]
        notes = ["counted; mass is blind to kernel sizes and groups, and to width where links are fewer than channels"]
        repeated = sum(cell.repeated for cell in self.cells)
        if repeated:
            notes.append(f"{repeated} of the links only repeat a channel that their layer reads anyway")
        total = {"name": "total", "mass": self.mass, "degree": self.degree}
        return Table(rows, columns, title=f"{self.model}: NN-Mass {self.mass:.6g}", totals=[total], notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "model": self.model,
            "mass": self.mass,
            "density": list(self.density),
            "degree": self.degree,
            "cells": [cell.to_dict() for cell in self.cells],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def of_cells(cells: Sequence[Cell], model: str = "") -> NNMass:
    """The mass of a network with these cells."""
    neurons = sum(cell.neurons for cell in cells)
    degree = sum(cell.degree * cell.neurons for cell in cells) / neurons if neurons else 0.0
    return NNMass(sum(cell.mass for cell in cells), tuple(cell.density for cell in cells), degree, tuple(cells), model)


def count_cells(graph: Graph, declared: bool = True) -> list[Cell]:
    """Every cell of a graph, in execution order; none where no link skips a layer.

    Args:
        declared: take a module's word (``cell_layers()``) for what its layers are.

    Raises:
        PrecutError: for a layer that reads what it made.
    """
    check_no_cycle(graph)
    sources = Sources(graph)
    cells, inside = declared_cells(graph, sources) if declared else ([], set())
    cells = [*cells, *found_cells(graph, sources, inside), *addition_cells(graph, sources)]
    return sorted(cells, key=lambda cell: cell.place)


def as_graph(model: nn.Module | Graph, example_inputs: Any = None) -> Graph:
    """``model`` captured; a graph as it is. Without example inputs those that its builder's arguments tell.

    Raises:
        PrecutError: when there is nothing to run it on.
    """
    if isinstance(model, Graph):
        return model
    if example_inputs is None:
        if not isinstance(model, nn.Module):
            raise PrecutError(f"topology takes an nn.Module or a captured Graph; got {type(model).__name__}")
        spec: Any = getattr(model, "precut_spec", None)
        if spec is None:
            raise PrecutError(
                f"{type(model).__name__} is not from create_model: pass example_inputs=, such as "
                "torch.zeros(1, 3, 32, 32)"
            )
        kwargs = spec["kwargs"]
        features = kwargs.get("in_features")
        side = kwargs["input_size"]
        shape = (1, features) if features else (1, kwargs["in_channels"], side, side)
        first = next(model.parameters(), torch.zeros(()))
        example_inputs = torch.zeros(shape, dtype=first.dtype, device=first.device)
    return capture(model, example_inputs)


def nn_mass(model: nn.Module | Graph, example_inputs: Any = None) -> NNMass:
    """NN-Mass (Bhardwaj, Li, Marculescu, CVPR 2021, arXiv 1910.00780): how much of a network long-range links carry.

    Counted in the graph, however the model's code writes its links: ``+``, ``+=``, ``torch.add``, ``torch.cat``,
    ``torch.hstack`` (not ``torch.stack(...).sum(0)``, which is no addition of two). A cell of concatenating layers has
    mass width x depth x density, where density is linked channels over those that could be linked; a block that ends in
    an addition has the mass of the published forms for residual, bottleneck and inverted residual blocks, a projection
    on the skip counting as the skip. The network's mass is the sum.

    Mass does not know kernel sizes and groups, nor which channels are linked, nor, where a layer has at most as many
    links as channels, the width: compare networks of equal width by it, or look at ``.degree`` too.

    Args:
        model: any module, or a graph captured before.
        example_inputs: as for ``precut.graph.capture``; may be left out for a graph and for a network of
            ``create_model``.

    Raises:
        PrecutError: a network without cells, one that passes a layer twice, or one that cannot be captured.
    """
    graph = as_graph(model, example_inputs)
    cells = count_cells(graph)
    name = type(graph.model).__name__
    if not cells:
        raise PrecutError(
            f"{name} has no cells: no addition or concatenation in it skips a layer, so NN-Mass says nothing about it; "
            "it takes networks with skip connections (precut.list_models('*dense*'), resnets, mobilenetv2)"
        )
    return of_cells(cells, name)
