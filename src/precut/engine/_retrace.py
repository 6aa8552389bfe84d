"""Asking a model's Python code whether it would compute the same network for inputs of other sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn

from precut.errors import PrecutError
from precut.graph import Graph, ParamRef, SizeRef, Value, capture, leaves, rebuild

__all__ = ["Retrace"]

Shapes = Mapping[int, Sequence[int]]


class Retrace:
    """A model without numbers (on torch's meta device), captured again for other sizes and compared.

    A capture follows the code as it went for the example. What code learns from a size through Python's operators is
    known (the graph's guards), but ``range(x.shape[0])`` or ``math.log(x.shape[2])`` read an integer without a trace:
    only the code itself can tell what it would do. To be made before the model changes.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._model = _without_numbers(graph)

    def check(self, tensors: Sequence[torch.Tensor]) -> None:
        """Asks for inputs of these sizes.

        Raises:
            PrecutError: the code would do something else, or fail.
        """
        objection = self._objection([tensor.shape for tensor in tensors])
        if objection is None:
            return
        # Some code cannot run without numbers. It objects to its own example too, and that says nothing about sizes.
        if not self._graph.guards and self._objection([value.shape for value in self._graph.inputs]) is not None:
            return
        raise objection

    def _objection(self, shapes: Sequence[Sequence[int]]) -> PrecutError | None:
        """What speaks against inputs of these shapes."""
        if self._model is None:
            return PrecutError(
                "the model's code depends on sizes, and the model cannot be copied to ask it about others: compile it "
                "with inputs of these sizes"
            )
        given = [
            torch.empty(tuple(shape), dtype=value.dtype, device="meta")
            for shape, value in zip(shapes, self._graph.inputs, strict=True)
        ]
        tensors = iter(given)
        args, kwargs = rebuild(
            self._graph.signature, lambda leaf: next(tensors) if isinstance(leaf, torch.Tensor) else leaf
        )
        try:
            with torch.no_grad(), torch.device("meta"):
                if self._graph.guards:  # a broken one names the line where the code turns off
                    self._graph.run(*given, model=self._model)
                made = capture(self._model, kwargs or args)
        except Exception as error:  # what the capture says, or whatever the model's code raises
            if isinstance(error, PrecutError) and error.__cause__ is None:
                return error
            own = error.__cause__ or error
            told = PrecutError(
                f"the network does not take inputs of these sizes, {_listed(shapes)}; it was compiled for "
                f"{_listed([value.shape for value in self._graph.inputs])}: {own}"
            )
            told.__cause__ = own
            return told
        return self._difference(made)

    def _difference(self, made: Graph) -> PrecutError | None:
        shapes = {value.id: value.shape for value in made.values}
        source: str | None = None
        for one, other in zip_longest(self._graph.nodes, made.nodes):
            same = one is not None and other is not None and (one.op, one.path) == (other.op, other.path)
            if not same or not _same((one.args, one.kwargs), (other.args, other.kwargs), shapes):
                source = (other or one).source
                break
        else:
            if _same(self._graph.result, made.result, shapes):
                return None
        return PrecutError(
            f"the model's code at {source or 'an unknown line'} would do something else with inputs of these sizes than "
            "with the example's: compile it with inputs of these sizes"
        )


def _without_numbers(graph: Graph) -> nn.Module | None:
    """A copy of the model that holds shapes alone; None where it cannot be copied."""
    memo: dict[int, Any] = {}
    for tensor in (*graph.model.parameters(), *graph.model.buffers(), *graph.constants.values()):
        made = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made
    try:
        copied = copy.deepcopy(graph.model, memo).eval()
    except Exception:  # the model holds something that has its own reasons
        return None
    graph.constants = {name: tensor.to("meta") for name, tensor in graph.constants.items()}
    return copied


def _listed(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)


def _same(first: Any, second: Any, shapes: Shapes) -> bool:
    """Whether two calls' arguments (or two results) are the same; sizes in them are those of ``shapes``."""
    return all(
        _equal(_plain(one, shapes), _plain(other, shapes))
        for one, other in zip_longest(leaves(first), leaves(second), fillvalue=...)
    )


def _plain(leaf: Any, shapes: Shapes) -> Any:
    if isinstance(leaf, Value):
        return "value", leaf.id
    if isinstance(leaf, ParamRef):
        return "parameter", leaf.name
    if isinstance(leaf, torch.device):
        return "device"  # that of the copy is another by right
    try:
        return leaf.resolve(shapes) if isinstance(leaf, SizeRef) else leaf
    except KeyError:  # the size of something that this run did not make
        return None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return one is other or bool(one == other)
