"""Running a graph node by node, and checking that this gives what the model gives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut.errors import PrecutError
from precut.graph._graph import Node, ParamRef, Value
from precut.graph._sizes import SizeRef
from precut.graph._structure import leaves, rebuild

if TYPE_CHECKING:
    from precut.graph._graph import Graph

__all__ = ["compute", "keeping_modes", "run", "verify"]


def _last_uses(graph: Graph) -> dict[int, list[int]]:
    """Node index to the values that nothing needs after it."""
    last = {value.id: node.index for node in graph.nodes for value in (*node.inputs, *node.outputs)}
    kept = {value.id for value in graph.outputs}
    ends: dict[int, list[int]] = {}
    for number, index in last.items():
        if number not in kept:
            ends.setdefault(index, []).append(number)
    return ends


def lookup(graph: Graph, model: nn.Module, ref: ParamRef) -> torch.Tensor:
    """The tensor that ``ref`` names in ``model``."""
    if ref.kind == "constant":
        return graph.constants[ref.name]
    path, _, attribute = ref.name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


def run(graph: Graph, inputs: tuple[Any, ...], model: nn.Module) -> Any:
    """See ``Graph.run``."""
    tensors = [leaf for leaf in leaves(inputs) if isinstance(leaf, torch.Tensor)]
    if len(tensors) != len(graph.inputs):
        names = ", ".join(value.name for value in graph.inputs)
        raise PrecutError(f"the graph takes {len(graph.inputs)} tensors ({names}); got {len(tensors)}")
    env = dict(zip((value.id for value in graph.inputs), tensors, strict=True))
    shapes = {number: tensor.shape for number, tensor in env.items()}
    try:
        compute(graph.nodes, env, graph, model, shapes, _last_uses(graph))
    except (RuntimeError, ValueError, IndexError):
        _check_guards(graph, shapes)  # the likelier reason is told first
        raise
    _check_guards(graph, shapes)
    return rebuild(graph.result, _filler(graph, model, env, shapes))


def _filler(
    graph: Graph, model: nn.Module, env: dict[int, torch.Tensor], shapes: dict[int, torch.Size]
) -> Callable[[Any], Any]:
    """Puts tensors and numbers in the place of Values, ParamRefs and SizeRefs."""

    def fill(leaf: Any) -> Any:
        if isinstance(leaf, Value):
            return env[leaf.id]
        if isinstance(leaf, ParamRef):
            return lookup(graph, model, leaf)
        return leaf.resolve(shapes) if isinstance(leaf, SizeRef) else leaf

    return fill


def compute(
    nodes: Iterable[Node],
    env: dict[int, torch.Tensor],
    graph: Graph,
    model: nn.Module,
    shapes: dict[int, torch.Size],
    ends: Mapping[int, list[int]],
) -> None:
    """Runs ``nodes`` in order.

    Args:
        env: tensors by the value's id; those that the nodes make are added.
        shapes: of every value so far; added to likewise, and kept for sizes after a tensor has gone.
        ends: node index to the values that nothing needs after it: they leave ``env``.
    """
    fill = _filler(graph, model, env, shapes)
    for node in nodes:
        result = _call(node, model, rebuild(node.args, fill), rebuild(node.kwargs, fill))
        for place, tensor in zip(leaves(node.result), leaves(result), strict=True):
            if isinstance(place, Value):
                env[place.id], shapes[place.id] = tensor, tensor.shape
        for before, after in node.writes:
            env[after.id], shapes[after.id] = env[before.id], env[before.id].shape
        for done in ends.get(node.index, ()):
            env.pop(done, None)


def _check_guards(graph: Graph, shapes: dict[int, torch.Size]) -> None:
    """The model's code must have learned from the sizes what it learned from the example's."""
    for guard in graph.guards:
        try:
            holds = guard.holds(shapes)
        except KeyError:  # a value that a failed run did not reach
            continue
        if not holds:
            raise PrecutError(
                f"the model's code at {guard.source or 'an unknown line'} would do something else with inputs of these "
                "sizes than with the example's: capture it with inputs of these sizes"
            )


def _call(node: Node, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if node.module is not None:
        # forward, not __call__: what hooks did was recorded as nodes of its own.
        return model.get_submodule(node.path).forward(*args, **kwargs)
    assert node.function is not None
    return node.function(*args, **kwargs)


@contextlib.contextmanager
def keeping_modes(model: nn.Module, training: bool) -> Iterator[None]:
    """Every module in one mode, and each in its own again afterwards."""
    before = [(module, module.training) for module in model.modules()]
    for module, _ in before:
        module.training = training
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def verify(graph: Graph, inputs: tuple[Any, ...]) -> None:
    """See ``Graph.verify``."""
    args, kwargs = graph.example
    if inputs:
        args, kwargs = inputs, {}

    def copied(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf

    with torch.no_grad(), keeping_modes(graph.model, graph.training):
        expected = graph.model(*rebuild(args, copied), **rebuild(kwargs, copied))
        got = run(graph, rebuild((*args, *kwargs.values()), copied), graph.model)
    for index, (want, have) in enumerate(zip(leaves(expected), leaves(got), strict=True)):
        if not isinstance(want, torch.Tensor):
            continue
        if want.shape != have.shape:
            raise PrecutError(
                f"the graph gives output {index} of shape {tuple(have.shape)}, the model {tuple(want.shape)}: the "
                "model computes something from its inputs that was fixed at capture; capture it with inputs "
                "of this shape"
            )
        if not torch.equal(want, have) and not torch.equal(want.nan_to_num(), have.nan_to_num()):
            gap = (want.double() - have.double()).abs().max().item()
            raise PrecutError(
                f"the graph's output {index} differs from the model's by up to {gap:.3g}: the model depends on "
                "something that a capture cannot see (its own random numbers, or values fixed at capture)"
            )
