"""Blocks that end in an addition: residual, bottleneck and inverted residual blocks.

A block reaches from the last value that both operands come from to their sum. Its layers lie on the operand that passes
most of them; the other operand is the skip. With u_k the channels that layer k of n reads, a link could enter at each
place i = 2 .. n (n is the sum) from what each layer up to i - 2 reads; present are the c channels of the skip. Then
density = c / sum_i sum_{k <= i - 2} u_k and mass = density x sum_k u_k: c + planes for two convolutions, (c + 2 w) c /
(2 c + w) for three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from precut.graph import Graph, Node, Value
from precut.topology._cell import Cell
from precut.topology._layers import is_depthwise, is_gate, is_layer, is_pointwise, reads
from precut.topology._sources import NOTHING, Sources, maker_of

__all__ = ["addition_cells", "blocks"]

_ADDITIONS = ("add", "sub")


def addition_cells(graph: Graph, sources: Sources) -> list[Cell]:
    """One cell for each addition of which an operand skips a layer."""
    ancestors = _ancestors(graph)
    cells = []
    for node in graph.nodes:
        cell = _block(graph, node, ancestors, sources)
        if cell is not None:
            cells.append(cell)
    return cells


def blocks(graph: Graph) -> list[tuple[Value, Node]]:
    """(where the skip begins, the addition) for each addition of which an operand skips a layer."""
    ancestors = _ancestors(graph)
    found = []
    for node in graph.nodes:
        fork = _skipped(graph, node, ancestors)
        if fork is not None:
            found.append((graph.values_by_id[fork[0]], node))
    return found


def _ancestors(graph: Graph) -> dict[int, int]:
    """Value id to a set of bits: itself and what it was computed from."""
    found = {value.id: 1 << value.id for value in graph.inputs}
    for node in graph.nodes:
        before = 0
        for value in node.inputs:
            before |= found[value.id]
        for value in node.outputs:
            found[value.id] = before | 1 << value.id
    return found


@dataclass
class _Way:
    """The way through most layers from a fork to a value."""

    layers: tuple[Node, ...]


def _ways(graph: Graph, fork: int, end: Node) -> dict[int, _Way]:
    """Value id to the longest way from ``fork``, for all values between it and ``end``."""
    start = graph.values_by_id[fork].producer
    ways = {fork: _Way(())}
    for node in graph.nodes[0 if start is None else start.index + 1 : end.index]:
        entering = [value for value in dict.fromkeys(node.inputs) if value.id in ways]
        if not entering:
            continue
        full = [value for value in entering if is_layer(node) or not is_gate(value, node)] or entering
        if node.op == "mul" and any(is_gate(value, node) for value in entering):
            full = [value for value in entering if not is_gate(value, node)] or entering
        way = max((ways[value.id] for value in full), key=lambda way: len(way.layers))
        layers = (*way.layers, node) if is_layer(node) else way.layers
        for value in node.outputs:
            if value.id not in ways:
                ways[value.id] = _Way(layers)
    return ways


def _skipped(graph: Graph, node: Node, ancestors: dict[int, int]) -> tuple[int, _Way, _Way, Value] | None:
    """(id of the last value that both operands come from, way of the main operand, of the skip, the skip) of an
    addition; None where neither operand skips a layer of the other."""
    operands = list(dict.fromkeys(node.inputs))
    if node.op not in _ADDITIONS or len(operands) != 2 or any(is_gate(value, node) for value in operands):
        return None
    common = ancestors[operands[0].id] & ancestors[operands[1].id]
    if not common:
        return None
    fork = common.bit_length() - 1
    ways = _ways(graph, fork, node)
    main, skip = sorted(operands, key=lambda value: -len(ways[value.id].layers))
    if len(ways[main.id].layers) == len(ways[skip.id].layers):
        return None
    return fork, ways[main.id], ways[skip.id], skip


def _block(graph: Graph, node: Node, ancestors: dict[int, int], sources: Sources) -> Cell | None:
    found = _skipped(graph, node, ancestors)
    if found is None:
        return None
    fork, main, skip, operand = found[0], found[1].layers, found[2].layers, found[3]
    shared = len(sources.codes[fork])
    widths = [shared, *(reads(layer) for layer in main[1:])]
    if len(main) == 2 and is_depthwise(main[0]) and is_pointwise(main[1]):
        widths.insert(1, shared)  # an inverted residual without its widening layer counts as if that kept the width
    present = shared if skip else min(shared, _carried(operand, sources))
    places = len(widths)
    possible = sum(sum(widths[: place - 1]) for place in range(2, places + 1))
    if places == 1:
        possible = shared  # the only layer is skipped
    return Cell(node.name, "addition", places, tuple(widths), present, possible, 0, node.index)


def _carried(value: Value, sources: Sources) -> int:
    """How many different channels, zeros apart, a value holds."""
    codes = sources.codes[value.id]
    return len(np.unique(codes[maker_of(codes) != NOTHING]))
