"""A network cut into the maps whose Jacobians isometry looks at.

- The layers of a cell that says what its layers are (``cell_layers()``), each by itself.
- A block that ends in an addition, from where its skip begins to the sum: the skip is part of the map.
- Any other layer by itself.

Of the operations between two maps those that work place by place (activations, batch norms) go with the first, up to a
value that several read, a join, or another operation; what is left (pools, flattening) goes with the next.
"""

from __future__ import annotations

from dataclasses import dataclass

from precut.graph import Graph, Node, Value
from precut.topology._concatenation import body_of
from precut.topology._layers import ELEMENTWISE, is_layer
from precut.topology._residual import blocks

__all__ = ["Segment", "segments"]


@dataclass(frozen=True)
class Segment:
    """A map from one value to another.

    Attributes:
        name: of its layer, or of the addition at its end.
        nodes: what computes it, in execution order.
        declared: whether a module said that it is a layer.
    """

    name: str
    nodes: tuple[Node, ...]
    reads: Value
    makes: Value
    declared: bool = False

    @property
    def layers(self) -> list[Node]:
        """Its convolutions and linear layers."""
        return [node for node in self.nodes if is_layer(node)]


def segments(graph: Graph) -> list[Segment]:
    """The segments, in execution order."""
    found = _declared(graph)
    taken = {node for segment in found for node in segment.nodes}
    for segment in _blocks(graph):
        if not taken & set(segment.nodes):
            found.append(segment)
            taken |= set(segment.nodes)
    for node in graph.nodes:
        if is_layer(node) and node not in taken:
            found.append(Segment(node.name, (node,), node.input, node.output))
            taken.add(node)
    # First what follows, for all: what is then left between two maps goes with the second.
    found = [segment if segment.declared else _with_tail(segment, graph, taken) for segment in found]
    found = [segment if segment.declared else _with_head(segment, taken) for segment in found]
    return sorted(found, key=lambda segment: segment.nodes[0].index)


def _declared(graph: Graph) -> list[Segment]:
    paths = {id(module): path for path, module in graph.model.named_modules()}
    found = []
    for module in graph.model.modules():
        if hasattr(module, "cell_layers"):
            for layer in module.cell_layers():  # type: ignore[operator]
                body = body_of(graph, paths[id(layer)])
                found.append(Segment(paths[id(layer)], tuple(body.nodes), body.reads, body.makes, True))
    return found


def _blocks(graph: Graph) -> list[Segment]:
    """Blocks that end in an addition; those that overlap are one."""
    spans: list[tuple[Value, Node]] = []
    for fork, node in sorted(blocks(graph), key=lambda pair: pair[1].index):
        while spans and _begin(fork) < spans[-1][1].index:
            before = spans.pop()[0]
            fork = min(fork, before, key=_begin)
        spans.append((fork, node))
    found = []
    for fork, node in spans:
        between = _between(graph, fork, node)
        outside = {value.id for other in between for value in other.inputs} - {fork.id}
        outside -= {value.id for other in between for value in other.outputs}
        if not outside:  # else something else enters, and there is no map from the fork alone
            found.append(Segment(node.name, tuple(between), fork, node.output))
    return found


def _begin(value: Value) -> int:
    return -1 if value.producer is None else value.producer.index


def _between(graph: Graph, fork: Value, end: Node) -> list[Node]:
    """The nodes on the ways from ``fork`` to ``end``."""
    after = {fork.id}
    forward = []
    for node in graph.nodes[_begin(fork) + 1 : end.index + 1]:
        if any(value.id in after for value in node.inputs):
            forward.append(node)
            after |= {value.id for value in node.outputs}
    needed = {value.id for value in end.inputs}
    kept = [end]
    for node in reversed(forward[:-1]):
        if any(value.id in needed for value in node.outputs):
            kept.append(node)
            needed |= {value.id for value in node.inputs}
    return kept[::-1]


def _with_tail(segment: Segment, graph: Graph, taken: set[Node]) -> Segment:
    """With the elementwise operations behind it, up to a value that several read."""
    nodes, value = list(segment.nodes), segment.makes
    returned = {output.id for output in graph.outputs}
    while len(value.consumers) == 1 and value.id not in returned:
        node = value.consumers[0]
        if node.op not in ELEMENTWISE or node in taken or set(node.inputs) != {value} or len(node.outputs) != 1:
            break
        nodes.append(node)
        value = node.output
    taken |= set(nodes)
    return Segment(segment.name, tuple(nodes), segment.reads, value)


def _with_head(segment: Segment, taken: set[Node]) -> Segment:
    """With the operations before it that belong to nobody."""
    nodes, value = list(segment.nodes), segment.reads
    while value.producer is not None:
        node = value.producer
        if is_layer(node) or node in taken or len(set(node.inputs)) != 1 or len(node.outputs) != 1:
            break
        nodes.insert(0, node)
        value = node.input
    taken |= set(nodes)
    return Segment(segment.name, tuple(nodes), value, segment.makes)
