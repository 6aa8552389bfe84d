"""The table of what each operation becomes in the linearised network; the rules stand in the files that are imported at
the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from precut.errors import PrecutError
from precut.graph import Node
from precut.pruning._linear import Flow, Linear

__all__ = ["apply", "called", "first_flow", "rule"]

Rule = Callable[[Linear, Node], Any]
_RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """A decorator: the rule of these operations (canonical names of ``precut.graph``, in one string)."""

    def add(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names.split(), function))
        return function

    return add


def apply(run: Linear, node: Node) -> Any:
    """The node's result, in its structure, with Flows where something flows and tensors elsewhere."""
    if not any(isinstance(run.flows.get(value.id), Flow) for value in node.inputs):
        args, kwargs = run.arguments(node)
        return called(run, node, args, kwargs)
    found = _RULES.get(node.op)
    if found is None:
        raise PrecutError(
            f"{node.where} cannot be linearised, as synflow and the report of paths need; known operations are those "
            "of convolutional networks"
        )
    return found(run, node)


def called(run: Linear, node: Node, args: Any, kwargs: Any) -> Any:
    """The operation itself."""
    if node.module is not None:
        return run.graph.model.get_submodule(node.path).forward(*args, **kwargs)
    assert node.function is not None
    return node.function(*args, **kwargs)


def first_flow(run: Linear, node: Node) -> Flow:
    """The first input through which something flows."""
    return next(flow for value in node.inputs if isinstance(flow := run.flows[value.id], Flow))


from precut.pruning import _linear_joins, _linear_layers, _linear_moves  # noqa: E402, F401  (they register their rules)
