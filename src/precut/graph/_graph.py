"""What a capture is made of: values, nodes, and the graph that asks questions of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut.errors import PrecutError, unknown

if TYPE_CHECKING:
    from precut.graph._links import Link
    from precut.graph._sizes import Guard
    from precut.graph._spaces import ChannelSpaces

__all__ = ["Graph", "Node", "ParamRef", "Value"]

LAYER_OPS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")


@dataclass(frozen=True)
class ParamRef:
    """A parameter, buffer or constant as an argument; looked up by ``name`` when the graph runs.

    Attributes:
        name: qualified name in the model, or the key in ``Graph.constants``.
        kind: "parameter", "buffer" or "constant".
    """

    name: str
    kind: str


@dataclass(eq=False)
class Value:
    """A tensor that flows through the network. Its shape is the example's.

    Attributes:
        id: number, unique in the graph.
        name: the argument's name for inputs; else that of the node that made it, with "[k]" where it made several.
        producer: the node that made it; None for inputs.
        consumers: the nodes that take it, in execution order, once each.
    """

    id: int
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    producer: Node | None = None
    consumers: list[Node] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.shape}, {str(self.dtype).removeprefix('torch.')})"


@dataclass(eq=False)
class Node:
    """One recorded operation.

    Attributes:
        op: canonical name: "conv2d", "add", "flatten" ...; "torch.xyz" for a function without a row in the table of
            ops.
        name: unique: the module's path for leaf modules (with "#2" on a second call), else the path of the module whose
            ``forward`` called it and the op.
        index: place in execution order.
        module: the leaf module; None for a function.
        path: the leaf module's path in the model; for a function that of the module whose ``forward`` called it.
        params: role ("weight") to (qualified name, tensor): the parameters, buffers and constants that it reads.
        inputs, outputs: the values that it takes and makes, in order of the call.
        attrs: its other arguments, the same for modules and functions: stride, padding, dilation, kernel_size as
            tuples, dimensions as non-negative integers.
        bound: the call's arguments by name, with Values, ParamRefs and SizeRefs inside (functions with a row only).
        source: "file.py:12", the line of the model's code that called it; "" where the model is only containers.
        function, args, kwargs, result: the call itself for the interpreter, with Values, ParamRefs and SizeRefs in the
            place of tensors and sizes.
        writes: pairs (value, value) where the call changed an argument in place without returning it.
    """

    op: str
    name: str
    index: int
    module: nn.Module | None
    path: str
    params: dict[str, tuple[str, torch.Tensor]]
    inputs: list[Value]
    outputs: list[Value]
    attrs: dict[str, Any]
    bound: dict[str, Any]
    source: str
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None
    writes: tuple[tuple[Value, Value], ...] = ()

    @property
    def input(self) -> Value:
        """The first input."""
        return self.inputs[0]

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def dense_shape(self) -> tuple[int, ...] | None:
        """Shape of the dense weight, also where less is stored; None for a node without a weight."""
        shape = getattr(self.module, "dense_shape", None)
        if shape is None and "weight" in self.params:
            shape = self.params["weight"][1].shape
        return None if shape is None else tuple(shape)

    @property
    def where(self) -> str:
        """How messages name it: operation, name and line."""
        return f"{self.op} ({self.name}" + (f", {self.source})" if self.source else ")")

    def __repr__(self) -> str:
        takes = ", ".join(value.name for value in self.inputs)
        makes = ", ".join(str(value.shape) for value in self.outputs)
        return f"Node({self.name!r}: {self.op}({takes}) -> {makes})"


class Graph:
    """A captured network: its operations in execution order and the values between them.

    Attributes:
        model: the module that was captured; parameters are read from it whenever the graph runs.
        nodes: every recorded operation, in execution order.
        inputs: the values of the example's tensors, in order.
        outputs: the values that the model returned, in order.
        constants: tensors that the model used and does not own as parameter or buffer, by generated name.
        training: the mode in which it was captured.
        guards: what the model's Python code learned from sizes (comparisons, plain numbers) and is therefore fixed.
    """

    def __init__(
        self,
        model: nn.Module,
        nodes: list[Node],
        inputs: list[Value],
        signature: tuple[tuple[Any, ...], dict[str, Any]],
        result: Any,
        constants: dict[str, torch.Tensor],
        example: tuple[tuple[Any, ...], dict[str, Any]],
        training: bool,
        guards: Sequence[Guard] = (),
    ) -> None:
        from precut.graph._structure import leaves

        self.model = model
        self.nodes = nodes
        self.inputs = inputs
        self.constants = constants
        self.training = training
        self.guards = tuple(guards)
        self.signature, self.result, self.example = signature, result, example
        self.outputs: list[Value] = [leaf for leaf in leaves(result) if isinstance(leaf, Value)]
        self._by_name = {node.name: node for node in nodes}

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        """Nodes and values hold one another in chains as long as the network: they are copied one by one, for a
        recursion would end at Python's limit."""
        parts: list[Any] = [*self.nodes, *self.values]
        for part in parts:
            memo[id(part)] = copy.copy(part)
        made = copy.copy(self)
        memo[id(self)] = made
        for whole in (*parts, self):
            for key, held in vars(whole).items():
                vars(memo[id(whole)])[key] = copy.deepcopy(held, memo)
        return made

    @property
    def values(self) -> list[Value]:
        """Inputs and everything that nodes made, in execution order."""
        return [*self.inputs, *(value for node in self.nodes for value in node.outputs)]

    @cached_property
    def values_by_id(self) -> dict[int, Value]:
        """The values by their numbers."""
        return {value.id: value for value in self.values}

    def node(self, name: str) -> Node:
        """The node called ``name``."""
        if name not in self._by_name:
            raise unknown("node", name, self._by_name, "graph.table()")
        return self._by_name[name]

    def layers(self) -> list[Node]:
        """The convolutions and linear layers, in execution order. A module that is called twice is there twice."""
        return [node for node in self.nodes if node.op in LAYER_OPS]

    def run(self, *inputs: Any, model: nn.Module | None = None) -> Any:
        """The network's result, computed node by node.

        Args:
            inputs: tensors as in ``example_inputs``; other batch sizes work, and other image sizes where the network
                takes them. Sizes that the model's code derived from a shape follow; others stay as in the example.
            model: where parameters and modules are taken from, by name; by default the captured model. Modules run in
                the mode they are in (``model.eval()`` is up to the caller); hooks on leaf modules do not run again.

        Raises:
            PrecutError: when the inputs' sizes would have led the model's Python code elsewhere; names its line.
        """
        from precut.graph._interpret import run

        return run(self, inputs, self.model if model is None else model)

    def compute(self, nodes: Sequence[Node], tensors: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """Runs some nodes.

        Args:
            nodes: of this graph, in execution order.
            tensors: what they need and do not make themselves, by the value's id.

        Returns:
            ``tensors`` and all that the nodes made, by id. Sizes that a node takes from a value that is not there are
            the example's.
        """
        from precut.graph._interpret import compute

        known = dict(tensors)
        shapes = {value.id: torch.Size(value.shape) for value in self.values}
        shapes.update({number: tensor.shape for number, tensor in known.items()})
        compute(nodes, known, self, self.model, shapes, {})
        return known

    def verify(self, *inputs: Any) -> None:
        """Checks that ``run`` gives the model's own result, bit for bit, on these inputs (default: the example).

        Raises:
            PrecutError: when a result differs, with the place and the largest difference.
        """
        from precut.graph._interpret import verify

        verify(self, inputs)

    @cached_property
    def spaces(self) -> ChannelSpaces:
        """The ChannelSpaces: which channels are coupled, and which may change places or go."""
        from precut.graph._spaces import ChannelSpaces

        return ChannelSpaces(self)

    @cached_property
    def _depths(self) -> dict[int, int]:
        depths = {value.id: 0 for value in self.inputs}
        for node in self.nodes:
            before = max((depths[value.id] for value in node.inputs), default=0)
            for value in node.outputs:
                depths[value.id] = before + (node.op in LAYER_OPS)
        return depths

    def depth(self, value: Value | None = None) -> int:
        """Layers (convolutions and linear layers) on the longest way from an input to ``value``, or to the outputs."""
        if value is not None:
            if not isinstance(value, Value) or self.values_by_id.get(value.id) is not value:
                raise PrecutError(f"{value!r} is no value of this graph")
            return self._depths[value.id]
        return max((self._depths[value.id] for value in self.outputs), default=0)

    def links(self) -> list[Link]:
        """What additions and concatenations join, and how many layers each operand skips; see :class:`Link`."""
        from precut.graph._links import links

        return links(self)

    def table(self) -> str:
        """The nodes as aligned text: name, op, inputs, output shapes, source."""
        rows = [("node", "op", "inputs", "shape", "source")]
        for node in self.nodes:
            shapes = " ".join("x".join(map(str, value.shape)) or "scalar" for value in node.outputs)
            rows.append((node.name, node.op, " ".join(v.name for v in node.inputs), shapes, node.source))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def __repr__(self) -> str:
        return f"Graph({type(self.model).__name__}, {len(self.nodes)} nodes, {len(self.layers())} layers)"
