"""The table of lowerings: how each operation of a captured graph becomes native steps. One function, one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from precut._registry import Registry
from precut.engine._steps import Step
from precut.graph import Graph, Node, SizeRef, Value, leaves
from precut.runtime import Act

__all__ = ["LOWERINGS", "Lowering", "Operand", "Program", "UnsupportedError", "lower", "row", "size_refs"]


class UnsupportedError(Exception):
    """Why a node cannot run natively; it then runs in torch."""


@dataclass(frozen=True)
class Operand:
    """A value of the graph as the native steps know it.

    Attributes:
        value: number of the native value.
        rank: 2 for (N, C), 4 for (N, C, H, W).
        channels: C.
        fixed: height and width are the same whatever the network's input is.
        split: int64 channel numbers, (a, b): the graph's value is (N, a, b, H, W), the native one still (N, a b, H, W).
        spread: the graph's value is the native (N, C, 1, 1) one repeated over rows and columns.
    """

    value: int
    rank: int
    channels: int
    fixed: bool
    split: npt.NDArray[np.int64] | None = None
    spread: bool = False

    @property
    def plain(self) -> bool:
        """Whether the graph's value holds the same numbers in the same order as the native one."""
        return self.split is None and not self.spread


class Program:
    """The native steps of a graph, and what stands for each of its values.

    Attributes:
        steps: (node index, step) in execution order.
        entered: native value to the graph's value that it is, for those that come from outside.
        constant: ids of values that do not depend on the input.
        stretching: ids of values whose channels become more with the input's height and width: what torch makes of a
            flattened map.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.batch = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else None
        self.steps: list[tuple[int, Step]] = []
        self.operands: dict[int, Operand] = {}
        self.entered: dict[int, Value] = {}
        self.constant: set[int] = set()
        self.stretching: set[int] = set()
        self.node: Node | None = None
        self._count = 0

    def operand(self, value: Any, virtual: bool = False) -> Operand:
        """What stands for a graph's value.

        Args:
            virtual: whether the caller knows operands that are not ``plain``.
        """
        if not isinstance(value, Value):
            raise UnsupportedError("one of its operands is not computed from the input")
        if value.id not in self.operands:
            self._enter(value)
        operand = self.operands[value.id]
        if not virtual and not operand.plain:
            raise UnsupportedError("it reads a view that is no native value")
        return operand

    def _enter(self, value: Value) -> None:
        shape = value.shape
        if value.id in self.constant:
            raise UnsupportedError("one of its operands does not depend on the input")
        if value.dtype != torch.float32:
            raise UnsupportedError(f"it works on {str(value.dtype).removeprefix('torch.')}, not on float32")
        if len(shape) not in (2, 4):
            raise UnsupportedError(f"it works on a tensor of {len(shape)} dimensions, not on (N, C) or (N, C, H, W)")
        if value.id in self.stretching:
            raise UnsupportedError("it works on channels whose number follows the size of the input")
        if shape[0] != self.batch:
            raise UnsupportedError("one of its operands has another batch size than the input")
        number = self.new()
        self.entered[number] = value
        self.operands[value.id] = Operand(number, len(shape), shape[1], len(shape) == 2)

    def map(self, value: Any) -> Operand:
        """The operand of a value that has to be (N, C, H, W)."""
        operand = self.operand(value)
        if operand.rank != 4 or len(value.shape) != 4:
            raise UnsupportedError("it works on a tensor that is no (N, C, H, W) map here")
        return operand

    def new(self) -> int:
        """A new native value."""
        self._count += 1
        return self._count - 1

    def emit(
        self,
        op: str,
        inputs: list[Operand],
        *,
        channels: int | None = None,
        rank: int | None = None,
        fixed: bool | None = None,
        act: Act | None = None,
        per_filter: npt.NDArray[np.int64] | None = None,
        **args: Any,
    ) -> Operand:
        """Adds a step; what is not told about its result is as in the first input."""
        assert self.node is not None
        first = inputs[0]
        step = Step(op, self.node.name, [operand.value for operand in inputs], self.new(), args, per_filter=per_filter)
        step.same_size = len({operand.fixed for operand in inputs}) == 1
        if act is not None:
            step.act = act
        self.steps.append((self.node.index, step))
        return Operand(
            step.output,
            first.rank if rank is None else rank,
            first.channels if channels is None else channels,
            all(operand.fixed for operand in inputs) if fixed is None else fixed,
        )

    def affine(self, x: Operand, scale: Any, shift: Any) -> Operand:
        """x * scale + shift; float64 numbers or (C,) each."""
        both = (np.broadcast_to(np.asarray(part, np.float64), (x.channels,)) for part in (scale, shift))
        s, b = both
        return self.emit("affine", [x], scale=s, shift=b)


Lowered = Operand | list[Operand]
Function = Callable[[Node, Program], Lowered]


@dataclass(frozen=True)
class Lowering:
    """A row: the function, when it applies (for the published table), and whether it looks at traced sizes itself."""

    function: Function
    native: str
    when: str
    reads_sizes: bool = False


LOWERINGS: Registry[Lowering] = Registry("operation", "docs/supported-operations.md")


def row(op: str, native: str, when: str = "", reads_sizes: bool = False) -> Callable[[Function], Function]:
    """Registers the lowering of the graph's operation ``op``.

    Args:
        native: what it becomes.
        when: the conditions; "" where there are none.
        reads_sizes: the function itself decides about arguments that were computed from sizes.
    """

    def add(function: Function) -> Function:
        LOWERINGS.register(op)(Lowering(function, native, when, reads_sizes))
        return function

    return add


def size_refs(item: Any) -> list[SizeRef]:
    """The plain dimensions that a node's arguments were computed from."""
    found: list[SizeRef] = []
    stack = [leaf for leaf in leaves(item) if isinstance(leaf, SizeRef)]
    while stack:
        ref = stack.pop()
        if ref.function is None:
            found.append(ref)
        else:
            stack += [operand for operand in ref.operands if isinstance(operand, SizeRef)]
    return found


def _check_sizes(node: Node, graph: Graph) -> None:
    for ref in size_refs((node.args, node.kwargs)):
        value, dim = ref.operands
        if dim != 1 or len(graph.values_by_id[value].shape) != 4:  # only channels are the same for every input
            raise UnsupportedError("one of its arguments follows the size of the input")


def lower(node: Node, program: Program) -> None:
    """Adds the node's steps to the program and binds its outputs.

    Raises:
        UnsupportedError: the program is then as before.
    """
    if node.op not in LOWERINGS:
        raise UnsupportedError(f"the native library has no {node.op.removeprefix('torch.')}")
    entry = LOWERINGS[node.op]
    before = len(program.steps)
    program.node = node
    try:
        for value in (*node.inputs, *node.outputs):
            if value.dtype != torch.float32:
                raise UnsupportedError(f"it works on {str(value.dtype).removeprefix('torch.')}, not on float32")
        if not node.inputs:
            raise UnsupportedError("it does not depend on the input")
        if not entry.reads_sizes:
            _check_sizes(node, program.graph)
        made = entry.function(node, program)
    except UnsupportedError:
        del program.steps[before:]
        raise
    operands = made if isinstance(made, list) else [made]
    if len(operands) != len(node.outputs):
        del program.steps[before:]
        raise UnsupportedError("it gives more results than the native library's operation")
    for value, operand in zip(node.outputs, operands, strict=True):
        program.operands[value.id] = replace(operand)
