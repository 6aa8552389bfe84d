"""Which residual blocks can be skipped: those whose shortcut is the identity, found in the captured graph."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precut.graph import Graph, Node, Value

__all__ = ["Block", "find_blocks"]

# Operations that make no negative number where none comes in.
_KEEP_SIGNS = ("identity", "dropout", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")


@dataclass(frozen=True)
class Block:
    """``tail(x + branch(x))`` in a module of its own.

    Attributes:
        name: path of the module.
        tail: name of the block's child that stands in its place when it is skipped; "" for nothing (the identity).
        add: name of the addition's node.
        branch: the addition's operand that goes.
    """

    name: str
    tail: str
    add: str
    branch: Value


def find_blocks(graph: Graph) -> dict[str, Block]:
    """The blocks that can be skipped, by name, in execution order.

    A block is a module with one input x and one output, called once, that adds x (perhaps through ``nn.Identity``) to
    something computed from x alone; after the addition at most one module follows, or a ReLU called as a function where
    x is never negative, so that the ReLU changes nothing of it. Shapes then agree by themselves.
    """
    modules = dict(graph.model.named_modules(remove_duplicate=False))
    found: dict[str, Block] = {}
    for node in graph.nodes:
        if node.op != "add" or node.module is not None or len(node.inputs) != 2 or not node.path:
            continue
        for shortcut, branch in (node.inputs, node.inputs[::-1]):
            if shortcut is node.bound["other"] and node.attrs.get("alpha", 1) != 1:
                continue  # it is scaled
            block = _block(graph, modules, node, shortcut, branch)
            if block is not None:
                found.setdefault(block.name, block)
    return found


def _block(graph: Graph, modules: dict[str, nn.Module], add: Node, shortcut: Value, branch: Value) -> Block | None:
    path = add.path
    inside = [node for node in graph.nodes if node.path == path or node.path.startswith(f"{path}.")]
    numbers = {node.index for node in inside}
    made = {value.id for node in inside for value in node.outputs}
    source = _through_identities(shortcut)
    if {value.id for node in inside for value in node.inputs} - made != {source.id} or branch is shortcut:
        return None
    if source.shape != add.output.shape or sum(module is modules[path] for module in modules.values()) > 1:
        return None  # of a module that is used in two places, skipping one would skip both
    results = {value.id for value in graph.outputs}
    leaving = {
        value.id
        for node in inside
        for value in node.outputs
        if value.id in results or any(reader.index not in numbers for reader in value.consumers)
    }
    tail = [node for node in inside if node.index > add.index]
    last = tail[0] if tail else add
    if len(tail) > 1 or leaving != {last.output.id} or (tail and last.inputs != [add.output]):
        return None
    if last.module is None:  # the addition itself, or a function that no module stands for
        return Block(path, "", add.name, branch) if not tail or _changes_nothing(last, source) else None
    return Block(path, last.path[len(path) + 1 :], add.name, branch) if last.path.startswith(f"{path}.") else None


def _changes_nothing(tail: Node, value: Value) -> bool:
    """Whether what follows the addition is a ReLU, and the shortcut is never negative."""
    while value.producer is not None and value.producer.op in _KEEP_SIGNS:
        value = value.producer.input
    return tail.op == "relu" and value.producer is not None and value.producer.op == "relu"


def _through_identities(value: Value) -> Value:
    while value.producer is not None and value.producer.op == "identity":
        value = value.producer.input
    return value
