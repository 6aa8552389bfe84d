"""The table of what each operation becomes in the linearised network; the rules stand in the files that are imported at
the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from precut.errors import PrecutError
from precut.graph import Node, leaves, rebuild
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
        return _aside(run, node)
    found = _RULES.get(node.op)
    if found is None:
        raise PrecutError(
            f"{node.where} cannot be linearised, as synflow and the report of paths need; known operations are those "
            "of convolutional networks"
        )
    return found(run, node)


def _aside(run: Linear, node: Node) -> Any:
    """What the operation makes of numbers that do not depend on the input, in the model's own precision. Where
    constants are sources, the layers that run on such are as well."""
    args, kwargs = run.arguments(node, absolute=False)
    floats = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    held = [] if node.module is None else [t for t in node.module.parameters() if t.is_floating_point()]
    if len({tensor.dtype for tensor in (*floats, *held)}) > 1:
        dtype = held[0].dtype if held else torch.float64

        def brought(leaf: Any) -> Any:
            return leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

        args, kwargs = rebuild(args, brought), rebuild(kwargs, brought)
    with torch.no_grad() if held else contextlib.nullcontext():
        made = called(run, node, args, kwargs)
    weight = run.weights.get(id(node.params["weight"][1])) if "weight" in node.params else None
    if weight is None or not run.mode.constants:
        return made

    def sourced(leaf: Any) -> Any:
        assert weight is not None
        return run.settled(torch.ones_like(leaf, dtype=torch.float64) + weight.leaf().sum())

    return rebuild(made, sourced)


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
