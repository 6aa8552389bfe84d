"""Short and long-range links: what meets at additions and concatenations, and over how many layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precut.graph._graph import LAYER_OPS, Node, Value

if TYPE_CHECKING:
    from precut.graph._graph import Graph

__all__ = ["Link", "links"]

_JOINS = ("add", "cat")


@dataclass(frozen=True)
class Link:
    """One operand of an addition or a concatenation.

    Attributes:
        node: where it ends.
        kind: "add" or "cat".
        value: the operand.
        layers: names of the layers (or inputs) whose outputs the operand carries without a further layer between.
        skips: how many layers the longest operand of the same node passes that this one does not; 0 on the main path.
    """

    node: Node
    kind: str
    value: Value
    layers: tuple[str, ...]
    skips: int

    @property
    def long_range(self) -> bool:
        """Whether it skips at least one layer."""
        return self.skips > 0

    @property
    def channels(self) -> int:
        """Size of the operand's dimension 1 (of dimension 0 for vectors)."""
        shape = self.value.shape
        return shape[1] if len(shape) > 1 else shape[0]


def links(graph: Graph) -> list[Link]:
    """Every link, in execution order."""
    reached: dict[int, tuple[str, ...]] = {value.id: (value.name,) for value in graph.inputs}
    found: list[Link] = []
    for node in graph.nodes:
        operands = list(dict.fromkeys(node.inputs))
        if node.op in _JOINS and len(node.inputs) > 1:
            depth = max(graph.depth(value) for value in operands)
            for value in node.inputs:
                found.append(Link(node, node.op, value, reached[value.id], depth - graph.depth(value)))
        carried = tuple(dict.fromkeys(name for value in operands for name in reached[value.id]))
        for value in node.outputs:
            reached[value.id] = (node.name,) if node.op in LAYER_OPS else carried
    return found
