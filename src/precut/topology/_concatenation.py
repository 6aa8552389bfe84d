"""Cells whose layers concatenate: dense cells, with all links or some.

Found by counting: a layer reads links when some of its channels come from further back than the last layer before it.
Layers that hand their result to one layer and to nobody else are one with it (a bottleneck and its 3x3 convolution, the
three convolutions of a separable layer), as in the definition of DenseNets. Links that overlap make one cell. A module
that has ``cell_layers()`` says itself what its layers are, and is then a cell even without links.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from precut.errors import PrecutError
from precut.graph import Graph, Node, Value
from precut.topology._cell import Cell
from precut.topology._layers import is_layer
from precut.topology._sources import NOTHING, Codes, Sources, maker_of

__all__ = ["body_of", "declared_cells", "found_cells"]


def declared_cells(graph: Graph, sources: Sources) -> tuple[list[Cell], set[Node]]:
    """The cells that modules say they are, and the layers in them."""
    cells, inside = [], set()
    for name, module in graph.model.named_modules():
        if not hasattr(module, "cell_layers"):
            continue
        names = {id(part): path for path, part in graph.model.named_modules()}
        bodies = [body_of(graph, names[id(layer)]) for layer in module.cell_layers()]
        cells.append(_declared(graph, sources, name, bodies))
        inside |= {node for body in bodies for node in body.nodes}
    return cells, inside


@dataclass
class Body:
    """The nodes of a module, the value that enters them and the one that leaves."""

    nodes: list[Node]
    reads: Value
    makes: Value


def body_of(graph: Graph, path: str) -> Body:
    """The part of a graph that ran inside a module.

    Raises:
        PrecutError: when it did not run, or does not take one tensor and give one.
    """
    nodes = [node for node in graph.nodes if node.path == path or node.path.startswith(f"{path}.")]
    inside = {value.id for node in nodes for value in node.outputs}
    enters = {value.id: value for node in nodes for value in node.inputs if value.id not in inside}
    wanted = {value.id for node in graph.nodes if node not in set(nodes) for value in node.inputs}
    wanted |= {value.id for value in graph.outputs}
    leaves = [value for node in nodes for value in node.outputs if value.id in wanted]
    if len(enters) != 1 or len(leaves) != 1:
        raise PrecutError(
            f"module {path!r} is named as a layer of a cell, but {len(enters)} tensors enter and {len(leaves)} leave "
            "what ran of it; cell_layers() must give modules that take one tensor and give one"
        )
    return Body(nodes, next(iter(enters.values())), leaves[0])


def _declared(graph: Graph, sources: Sources, name: str, bodies: Sequence[Body]) -> Cell:
    layer_of = {value.id: number for number, body in enumerate(bodies) for node in body.nodes for value in node.outputs}
    widths = [len(sources.codes[body.makes.id]) for body in bodies[:-1]]
    links = repeated = possible = 0
    for number, body in enumerate(bodies[2:], 2):
        codes = sources.codes[body.reads.id]
        direct = np.array([layer_of.get(maker) == number - 1 for maker in maker_of(codes).tolist()], bool)
        own = len(np.unique(codes[direct]))
        links += len(codes) - own
        repeated += len(codes) - len(np.unique(codes))
        possible += sum(widths[: number - 1])
    label = name or type(graph.model).__name__
    last = max(node.index for body in bodies for node in body.nodes)
    return Cell(label, "concatenation", len(bodies), tuple(widths), links, possible, repeated, last)


# ---- cells that are found ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Unit:
    """Layers in a row that count as one; or, without layers, a value that is none's output (an input)."""

    makes: Value
    codes: Codes
    layers: list[Node] = field(default_factory=list)
    before: set[_Unit] = field(default_factory=set)
    level: int = 0


@dataclass
class _Span:
    """Levels from the layer where a link begins to the one where it ends."""

    first: int
    last: int


def found_cells(graph: Graph, sources: Sources, inside: set[Node]) -> list[Cell]:
    """The cells of concatenating layers, apart from those that are ``inside`` others already."""
    units = _units(graph, sources, inside)
    by_value = {value: unit for unit in units for value in _made_by(unit)}
    spans: list[_Span] = []
    ends: list[tuple[_Unit, int, int]] = []  # unit, links, of them repeated
    for unit in units:
        makers = maker_of(unit.codes)
        levels = np.array([by_value[m].level if m in by_value else NOTHING for m in makers.tolist()], np.int64)
        if not len(levels) or levels.max() < 0:
            continue
        direct = levels == levels.max()
        skipping = ~direct & (levels >= 0)
        if not skipping.any():
            continue
        distinct = len(np.unique(unit.codes[direct]))
        ends.append((unit, len(levels) - distinct - int((levels < 0).sum()), len(levels) - len(np.unique(unit.codes))))
        spans.append(_Span(int(levels[skipping].min()), unit.level))
    return [_cell(span, units, ends, sources) for span in _merged(spans)]


def _made_by(unit: _Unit) -> Iterable[int]:
    return (node.output.id for node in unit.layers) if unit.layers else (unit.makes.id,)


def _merged(spans: list[_Span]) -> list[_Span]:
    """Spans that overlap in more than an end become one."""
    merged: list[_Span] = []
    for span in sorted(spans, key=lambda span: (span.first, span.last)):
        if merged and span.first < merged[-1].last:
            merged[-1].last = max(merged[-1].last, span.last)
        else:
            merged.append(_Span(span.first, span.last))
    return merged


def _cell(span: _Span, units: list[_Unit], ends: list[tuple[_Unit, int, int]], sources: Sources) -> Cell:
    depth = span.last - span.first + 1
    widths = [0] * (depth - 1)
    for unit in units:
        if span.first <= unit.level < span.last:
            widths[unit.level - span.first] += len(sources.codes[unit.makes.id])
    at: dict[int, list[tuple[_Unit, int, int]]] = defaultdict(list)
    for end in ends:
        if span.first < end[0].level <= span.last:
            at[end[0].level].append(end)
    # Layers side by side count as one whose links are their mean.
    links = sum(round(sum(n for _, n, _ in level) / len(level)) for level in at.values())
    repeated = sum(round(sum(n for _, _, n in level) / len(level)) for level in at.values())
    possible = sum(sum(widths[: number - 1]) for number in range(2, depth))
    last = max((unit.layers[0] for unit, _, _ in at[span.last]), key=lambda node: node.index)
    return Cell(last.name, "concatenation", depth, tuple(widths), links, possible, repeated, last.index)


def _units(graph: Graph, sources: Sources, inside: set[Node]) -> list[_Unit]:
    """Layers, in rows where one hands all it makes to the next alone; in order of execution, with their levels."""
    readers: dict[int, set[Node]] = defaultdict(set)
    for node in graph.nodes:
        if is_layer(node):
            for maker in np.unique(maker_of(sources.codes[node.input.id])).tolist():
                readers[maker].add(node)
    units: list[_Unit] = []
    of_value: dict[int, _Unit] = {}
    made = {node.output.id: node for node in graph.nodes if is_layer(node)}
    for node in graph.nodes:
        if not is_layer(node):
            for value in node.outputs:  # what could not be followed begins anew
                if value.id in readers and value.id not in made:
                    of_value[value.id] = _begin(value, node.inputs, sources, of_value, units)
            continue
        if node in inside:
            continue
        codes = sources.codes[node.input.id]
        makers = [maker for maker in np.unique(maker_of(codes)).tolist() if maker != NOTHING]
        for maker in makers:
            if maker not in of_value:
                value = graph.values_by_id[maker]
                of_value[maker] = _begin(value, (), sources, of_value, units)
        alone = len(makers) == 1 and readers[makers[0]] == {node} and makers[0] not in sources.used_aside
        whole = alone and len(np.unique(codes)) == len(codes)
        before = of_value[makers[0]] if makers else None
        if whole and before is not None and before.layers:
            before.layers.append(node)
            before.makes = node.output
            of_value[node.output.id] = before
            continue
        unit = _Unit(node.output, codes, [node])
        unit.before = {of_value[maker] for maker in makers}
        unit.level = 1 + max((other.level for other in unit.before), default=0)
        of_value[node.output.id] = unit
        units.append(unit)
    return units


def _begin(
    value: Value, inputs: Sequence[Value], sources: Sources, of_value: dict[int, _Unit], units: list[_Unit]
) -> _Unit:
    """A unit without layers, for a value whose channels begin with it."""
    level = 0
    for entering in inputs:
        for maker in np.unique(maker_of(sources.codes[entering.id])).tolist():
            if maker in of_value:
                level = max(level, of_value[maker].level + 1)
    unit = _Unit(value, np.empty(0, np.int64), level=level)
    units.append(unit)
    return unit
