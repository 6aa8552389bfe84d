"""Dividing a graph into native segments and nodes that run in torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from precut.engine._fold import fold
from precut.engine._lower import Operand, Program, UnsupportedError, lower, size_refs
from precut.engine._steps import Step
from precut.graph import Graph, Node, Value

__all__ = ["Partition", "Segment", "partition"]


@dataclass
class Segment:
    """Native steps that run in one call.

    Attributes:
        nodes: the graph's nodes that it stands for.
        inputs: (native value, graph's value or None where an earlier segment made it, example shape).
        outputs: native values that are needed outside.
        exports: (graph's value, operand) for values that torch or the caller reads.
    """

    nodes: list[Node]
    steps: list[Step]
    inputs: list[tuple[int, Value | None, tuple[int, ...]]]
    outputs: list[int]
    exports: list[tuple[Value, Operand]] = field(default_factory=list)


@dataclass
class Partition:
    """What runs, in order: segments, and single nodes in torch; with the reasons of the latter by node index."""

    items: list[Segment | Node]
    reasons: dict[int, str]

    @property
    def segments(self) -> list[Segment]:
        """The native ones."""
        return [item for item in self.items if isinstance(item, Segment)]


def _live(graph: Graph) -> list[Node]:
    """The nodes that the result needs, in order."""
    wanted = _returned(graph)
    live: list[Node] = []
    for node in reversed(graph.nodes):
        if any(value.id in wanted for value in node.outputs):
            live.append(node)
            wanted |= _needs(node)
    return live[::-1]


def _returned(graph: Graph) -> set[int]:
    """Values whose numbers or sizes the result holds."""
    return {value.id for value in graph.outputs} | {ref.operands[0] for ref in size_refs(graph.result)}


def _needs(node: Node) -> set[int]:
    """Values whose numbers or sizes a node reads."""
    return {value.id for value in node.inputs} | {ref.operands[0] for ref in size_refs((node.args, node.kwargs))}


def partition(graph: Graph, forced: Mapping[int, str]) -> Partition:
    """Lowers what can be lowered, and cuts the rest out.

    Args:
        forced: nodes (by index) that must run in torch, with the reason.
    """
    live = _live(graph)
    reasons = dict(forced)
    while True:
        program = _lowered(graph, live, reasons)
        again = _cannot_leave(graph, live, program, reasons)
        if not again:
            items = _items(graph, live, program, reasons)
            again = {
                node.index: "it computes nothing between operations that run in torch"
                for item in items
                if isinstance(item, Segment) and not item.steps
                for node in item.nodes
            }
        if not again:
            return Partition(items, {node.index: reasons[node.index] for node in live if node.index in reasons})
        reasons.update(again)


def _lowered(graph: Graph, live: list[Node], reasons: dict[int, str]) -> Program:
    """The program of every node that has no reason against it; adds the reasons that lowering finds."""
    program = Program(graph)
    varying = {value.id for value in graph.inputs}
    for node in live:
        if any(value.id in varying for value in node.inputs):
            varying |= {value.id for value in node.outputs}
        else:
            program.constant |= {value.id for value in node.outputs}
        if node.index not in reasons:
            try:
                lower(node, program)
            except UnsupportedError as error:
                reasons[node.index] = str(error)
        if node.index in reasons and _stretches(node, program):
            program.stretching |= {value.id for value in node.outputs}
    return program


def _stretches(node: Node, program: Program) -> bool:
    """Whether the channels of what torch makes here may be more for larger images."""
    if node.op == "flatten":
        operand = program.operands.get(node.input.id)
        return operand is None or not operand.fixed
    return "weight" not in node.params and any(value.id in program.stretching for value in node.inputs)


def _read_by_torch(graph: Graph, live: list[Node], reasons: Mapping[int, str]) -> set[int]:
    wanted = _returned(graph)
    for node in live:
        if node.index in reasons:
            wanted |= _needs(node)
    return wanted


def _cannot_leave(graph: Graph, live: list[Node], program: Program, reasons: Mapping[int, str]) -> dict[int, str]:
    """Native nodes whose result exists only as a rearrangement, while torch needs the tensor."""
    wanted = _read_by_torch(graph, live, reasons)
    return {
        node.index: "its result is a view that torch reads"
        for node in live
        if node.index not in reasons
        and any(value.id in wanted and not program.operands[value.id].plain for value in node.outputs)
    }


def _levels(graph: Graph, live: list[Node], reasons: Mapping[int, str]) -> dict[int, int]:
    """Node index to a level: even ones are native, odd ones torch, and a node's inputs are from its level or lower."""
    at: dict[int, int] = {value.id: 0 for value in graph.inputs}
    levels: dict[int, int] = {}
    for node in live:
        level = max((at[value] for value in _needs(node)), default=0)
        level += (level % 2 == 1) != (node.index in reasons)
        levels[node.index] = level
        at.update((value.id, level) for value in node.outputs)
    return levels


def _items(graph: Graph, live: list[Node], program: Program, reasons: Mapping[int, str]) -> list[Segment | Node]:
    levels = _levels(graph, live, reasons)
    wanted = _read_by_torch(graph, live, reasons)
    made = {step.output: levels[index] for index, step in program.steps}
    shapes = _shapes(live, program)
    readers: dict[int, set[int]] = {}
    for index, step in program.steps:
        for value in step.reads:
            readers.setdefault(value, set()).add(levels[index])
    items: list[Segment | Node] = []
    for level in sorted(set(levels.values())):
        nodes = [node for node in live if levels[node.index] == level]
        if level % 2:
            items += nodes
            continue
        exports = [
            (value, program.operands[value.id]) for node in nodes for value in node.outputs if value.id in wanted
        ]
        steps = [step for index, step in program.steps if levels[index] == level]
        read = dict.fromkeys(value for step in steps for value in step.reads if made.get(value, -1) != level)
        inputs = [(value, program.entered.get(value), shapes[value]) for value in read]
        leaving = {operand.value for _, operand in exports}
        needed = [step.output for step in steps if step.output in leaving or readers.get(step.output, set()) - {level}]
        # First what the network returns, as often as it does and in its order: a saved file has the model's results.
        own = dict(exports)
        returned = [own[value].value for value in graph.outputs if value in own and own[value].value in needed]
        outputs = returned + [number for number in needed if number not in returned]
        items.append(Segment(nodes, fold(steps, set(outputs)), inputs, outputs, exports))
    return items


def _shapes(live: list[Node], program: Program) -> dict[int, tuple[int, ...]]:
    """Example shapes of the native values that may enter a segment."""
    shapes = {number: tuple(value.shape) for number, value in program.entered.items()}
    for node in live:
        for value in node.outputs:
            operand = program.operands.get(value.id)
            if operand is not None and operand.value not in shapes:
                shape = tuple(value.shape)
                if operand.split is not None:
                    shape = (shape[0], operand.channels, *shape[3:])
                elif operand.rank == 4 and (operand.spread or len(shape) != 4):
                    shape = (shape[0], operand.channels, 1, 1)
                shapes[operand.value] = shape if len(shape) == operand.rank else (*shape[:2], 1, 1)[: operand.rank]
    return shapes
