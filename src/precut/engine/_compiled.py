"""The callable that compile returns: native segments and torch nodes, run in order."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from precut._files import atomic_write
from precut.engine._inputs import Array, Inputs
from precut.engine._partition import Segment
from precut.engine._retrace import Retrace
from precut.errors import PrecutError
from precut.graph import Graph, Node, ParamRef, SizeRef, Value, function_name, leaves, rebuild
from precut.report import Table
from precut.runtime import Model

__all__ = ["CompiledModel", "NativePart", "TorchPart", "torch_part", "write_file"]

Env = dict[int, torch.Tensor]


@dataclass
class NativePart:
    """A segment and its opened native model."""

    segment: Segment
    model: Model
    data: bytes
    seen: list[tuple[int, ...]] | None = None

    def run(self, env: Env, native: Env) -> None:
        """Reads and adds graph values (``env``) and native values (``native``)."""
        segment = self.segment
        given = [native[number] if value is None else env[value.id] for number, value, _ in segment.inputs]
        self.seen = [tuple(tensor.shape) for tensor in given]
        result = self.model.run(*(tensor.detach().contiguous().numpy() for tensor in given))
        arrays = (result,) if isinstance(result, np.ndarray) else result
        native.update(zip(segment.outputs, map(torch.from_numpy, arrays), strict=True))
        for number, tensor in zip((number for number, _, _ in segment.inputs), given, strict=True):
            native.setdefault(number, tensor)
        for value, operand in segment.exports:
            tensor = native[operand.value]
            if tensor.ndim != len(value.shape):
                tensor = tensor.reshape(tensor.shape[0], *value.shape[1:])
            env[value.id] = tensor


@dataclass
class TorchPart:
    """A node that runs in torch, with copies of its module and tensors."""

    node: Node
    module: torch.nn.Module | None
    params: dict[str, torch.Tensor]
    reason: str
    seconds: float = field(default=0.0)

    def run(self, env: Env, shapes: dict[int, torch.Size]) -> None:
        """Reads and adds graph values; ``shapes`` are those of all values so far."""
        node = self.node
        copies: Env = {}
        writes = _may_write(node)

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                if not writes:
                    return env[leaf.id]
                # A write in place must reach neither the caller's tensors nor what later parts read.
                return copies.setdefault(leaf.id, env[leaf.id].clone())
            if isinstance(leaf, ParamRef):
                return self.params[leaf.name]
            return leaf.resolve(shapes) if isinstance(leaf, SizeRef) else leaf

        args, kwargs = rebuild(node.args, fill), rebuild(node.kwargs, fill)
        function: Callable[..., Any] | None = node.function if self.module is None else self.module.forward
        assert function is not None
        result = function(*args, **kwargs)
        for place, tensor in zip(leaves(node.result), leaves(result), strict=True):
            if isinstance(place, Value):
                env[place.id] = tensor
        for before, after in node.writes:
            env[after.id] = copies.get(before.id, env[before.id])


def _may_write(node: Node) -> bool:
    """Whether the call may write into its arguments: torch's naming tells."""
    if node.writes or node.op.startswith(("torch.", "fill", "zero")) or "::" in node.op:
        return True
    if node.module is not None:
        return bool(getattr(node.module, "inplace", False))
    assert node.function is not None
    name = function_name(node.function)
    in_place = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
    return in_place or bool(node.bound.get("inplace")) or node.bound.get("out") is not None


def torch_part(node: Node, reason: str) -> TorchPart:
    """The part of a node, with what it reads copied: later training of the model does not change it."""
    module = None if node.module is None else copy.deepcopy(node.module).eval()
    if module is not None:
        vars(module).pop("forward", None)
    params = {name: tensor.detach().clone() for name, tensor in node.params.values()}
    return TorchPart(node, module, params, reason)


def _constants(graph: Graph) -> dict[str, torch.Tensor]:
    """Copies of the model's own tensors that the result holds as they are."""
    held = {leaf for leaf in leaves(graph.result) if isinstance(leaf, ParamRef)}
    named = (
        {**dict(graph.model.named_parameters()), **dict(graph.model.named_buffers()), **graph.constants} if held else {}
    )
    return {ref.name: named[ref.name].detach().clone() for ref in held}


def write_file(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes a file all at once; what goes wrong is a PrecutError with the path."""
    try:
        return atomic_write(os.fspath(path), data)
    except (OSError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise PrecutError(f"{str(path)!r:.200} cannot be written: {why}") from error


class CompiledModel:
    """A network made ready to run; what :func:`precut.compile` returns.

    Call it as the model was called. It takes and gives torch tensors, or NumPy arrays if the inputs are such; other
    batch sizes than the example's work, and other image sizes where the network takes them; the first call of each new
    size takes longer (the model's Python code is asked whether it would do the same, and the library plans). Results
    carry no gradients. Weights are those that the model had when it was compiled.

    One call a time runs on a compiled model (others wait); several compiled models run at once.
    """

    def __init__(self, graph: Graph, parts: Sequence[NativePart | TorchPart], mode: str) -> None:
        self.parts = list(parts)
        self.mode = mode
        self._inputs = Inputs(graph)
        self._result = graph.result
        self._constants = _constants(graph)
        self._retrace = Retrace(graph)
        self._checked = {self._inputs.shapes}
        self._ends = self._last_reads()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's result.

        Args:
            args, kwargs: as the model takes them; CPU tensors or NumPy arrays, float32 where the example was.

        Raises:
            PrecutError: other arguments than in the example, or sizes that the network does not take.
        """
        tensors, numpy = self._inputs.take(args, kwargs)
        env, sizes = self._forward(tensors)

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, SizeRef):
                return leaf.resolve(sizes)
            if not isinstance(leaf, (Value, ParamRef)):
                return leaf
            tensor = env[leaf.id] if isinstance(leaf, Value) else self._constants[leaf.name].clone()
            return tensor.detach().numpy() if numpy else tensor

        return rebuild(self._result, fill)

    def _forward(self, tensors: Sequence[torch.Tensor], clock: bool = False) -> tuple[Env, dict[int, torch.Size]]:
        """The values that the result holds, and the shapes of all that left a part."""
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        if shapes not in self._checked:
            self._retrace.check(tensors)
            self._checked.add(shapes)
        env: Env = {value.id: tensor for value, tensor in zip(self._inputs.values, tensors, strict=True)}
        native: Env = {}
        sizes = {number: tensor.shape for number, tensor in env.items()}
        with torch.no_grad():
            for part, ends in zip(self.parts, self._ends, strict=True):
                if isinstance(part, NativePart):
                    part.run(env, native)
                    sizes.update((value.id, env[value.id].shape) for value, _ in part.segment.exports)
                else:
                    start = perf_counter()
                    part.run(env, sizes)
                    part.seconds += perf_counter() - start if clock else 0.0
                    sizes.update((value.id, env[value.id].shape) for value in part.node.outputs if value.id in env)
                for done in ends:
                    env.pop(done, None)
        return env, sizes

    def _last_reads(self) -> list[list[int]]:
        """For each part the graph values that nothing needs after it."""
        last: dict[int, int] = {}
        for number, part in enumerate(self.parts):
            if isinstance(part, NativePart):
                values = [value for _, value, _ in part.segment.inputs if value is not None]
                values += [value for value, _ in part.segment.exports]
            else:
                values = [*part.node.inputs, *part.node.outputs]
            last.update((value.id, number) for value in values)
        kept = {leaf.id for leaf in leaves(self._result) if isinstance(leaf, Value)}
        ends: list[list[int]] = [[] for _ in self.parts]
        for value, number in last.items():
            if value not in kept:
                ends[number].append(value)
        return ends

    def explain(self, rounds: int = 0, inputs: Array | Sequence[Array] | None = None) -> Table:
        """What runs each layer, and why.

        Args:
            rounds: forwards over which everything is timed first; 0 times nothing.
            inputs: what is timed, and whose sizes the table is for: one tensor or array for each of the example's; zeros
                of the example's shapes by default.

        Returns:
            A ``report.Table``: a row for each native operation and each node that runs in torch. ``macs`` are counted
            (kept weights times positions, for the whole batch); ``us`` and ``peak`` are measured, if at all.
        """
        from precut.engine._explain import explain

        return explain(self, rounds, inputs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the native file, which ``precut.runtime.load(path)`` and ``libprecut`` open without torch. Its outputs
        are the result's tensors, in their order.

        Raises:
            PrecutError: when a part of the network runs in torch, or the result is more than tensors of two or four
                dimensions that it computed; names what and why. Likewise when the file cannot be written.
        """
        write_file(path, self._file())

    def _file(self) -> bytes:
        """The native file's bytes."""
        fallen = [part for part in self.parts if isinstance(part, TorchPart)]
        if fallen:
            first = fallen[0]
            more = f" (and {len(fallen) - 1} more)" if len(fallen) > 1 else ""
            raise PrecutError(
                f"only a network that runs natively as a whole can be saved; {first.node.where}{more} runs in torch: "
                f"{first.reason}"
            )
        natives = [part for part in self.parts if isinstance(part, NativePart)]
        given = [value.id for value in self._inputs.values]
        if len(natives) != 1 or [v.id if v else None for _, v, _ in natives[0].segment.inputs] != given:
            raise PrecutError("only a network that computes something from each of its inputs can be saved")
        operands = {value.id: operand for value, operand in natives[0].segment.exports}
        made = []
        for number, leaf in enumerate(leaves(self._result)):
            if not isinstance(leaf, Value):
                raise PrecutError(
                    f"a saved network gives tensors that it computed alone; its result also holds {leaf!r:.60}"
                )
            operand = operands.get(leaf.id)
            if operand is None or operand.value not in natives[0].segment.outputs:
                raise PrecutError(f"a saved network gives what it computed; its result {number} is an input")
            if operand.rank != len(leaf.shape):
                raise PrecutError(
                    f"a saved network gives (N, C) or (N, C, H, W) as computed; its result {number}, {leaf.name!r}, is "
                    f"{tuple(leaf.shape)}, reshaped from {operand.rank} dimensions"
                )
            made.append(operand.value)
        assert made == natives[0].segment.outputs
        return natives[0].data

    def __reduce__(self) -> Any:
        raise PrecutError("a compiled model cannot be copied or pickled: compile again, or save() it as a file")

    def __repr__(self) -> str:
        fallen = sum(isinstance(part, TorchPart) for part in self.parts)
        return f"CompiledModel({self.mode}, {len(self.parts) - fallen} native segments, {fallen} nodes in torch)"
