"""The callable that compile returns: native segments and torch nodes, run in order."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch

from precut._files import atomic_write
from precut.engine._partition import Segment
from precut.errors import PrecutError
from precut.graph import Graph, Node, ParamRef, SizeRef, Value, function_name, leaves, rebuild
from precut.report import Table
from precut.runtime import Model

__all__ = ["CompiledModel", "NativePart", "TorchPart"]

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


class CompiledModel:
    """A network made ready to run; what :func:`precut.compile` returns.

    Call it as the model was called. It takes and gives torch tensors, or NumPy arrays if the inputs are such; other
    batch sizes than the example's work, and other image sizes where the network takes them. Results carry no
    gradients. Weights are those that the model had when it was compiled.

    One call a time runs on a compiled model (others wait); several compiled models run at once.
    """

    def __init__(
        self, graph: Graph, parts: Sequence[NativePart | TorchPart], meta: torch.nn.Module | None, mode: str
    ) -> None:
        self.parts = list(parts)
        self.mode = mode
        self._graph = graph if meta is not None else None
        self._meta = meta
        self._checked: set[tuple[tuple[int, ...], ...]] = set()
        self._inputs = list(graph.inputs)
        self._result = graph.result
        self._keywords = list(graph.signature[1])
        self._example = tuple(leaves((graph.signature[0], tuple(graph.signature[1].values()))))
        self._shapes = tuple(value.shape for value in self._inputs)
        self._ends = self._last_reads()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's result.

        Args:
            args, kwargs: as the model takes them; CPU tensors or NumPy arrays, float32 where the example was.

        Raises:
            PrecutError: other arguments than in the example, or sizes that the network does not take.
        """
        tensors, numpy = self._take(args, kwargs)
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        if self._meta is not None and shapes not in self._checked:
            self._check_sizes(tensors)
            self._checked.add(shapes)
        env = self._forward(tensors)

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return env[leaf.id].detach().numpy() if numpy else env[leaf.id]
            return leaf.example if isinstance(leaf, SizeRef) else leaf

        return rebuild(self._result, fill)

    def _forward(self, tensors: Sequence[torch.Tensor], clock: bool = False) -> Env:
        env: Env = {value.id: tensor for value, tensor in zip(self._inputs, tensors, strict=True)}
        native: Env = {}
        sizes = {value.id: tensor.shape for value, tensor in zip(self._inputs, tensors, strict=True)}
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
        return env

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

    def _take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[torch.Tensor], bool]:
        """The call's tensors in order, and whether they came as NumPy arrays."""
        if set(kwargs) != set(self._keywords):
            raise PrecutError(
                f"this compiled model takes the keyword arguments {self._keywords} of its example; got {sorted(kwargs)}"
            )
        given = list(leaves((args, tuple(kwargs[name] for name in self._keywords))))
        arrays = [leaf for leaf in given if isinstance(leaf, (torch.Tensor, np.ndarray))]
        if len(given) != len(self._example) or len(arrays) != len(self._inputs):
            names = ", ".join(value.name for value in self._inputs)
            raise PrecutError(
                f"this compiled model takes {len(self._inputs)} tensors ({names}) and else what the example held; got "
                f"{len(arrays)} tensors and {len(given) - len(arrays)} other arguments"
            )
        numpy = any(isinstance(leaf, np.ndarray) for leaf in arrays)
        tensors = []
        position = 0
        for leaf, example in zip(given, self._example, strict=True):
            if isinstance(example, torch.Tensor) and isinstance(leaf, (torch.Tensor, np.ndarray)):
                tensors.append(self._checked_input(self._inputs[position], leaf))
                position += 1
            elif isinstance(example, torch.Tensor) or leaf != example:
                raise PrecutError(
                    f"an argument of this compiled model was {example!r:.60} in its example; got {leaf!r:.60}"
                )
        return tensors, numpy

    @staticmethod
    def _checked_input(value: Value, leaf: torch.Tensor | np.ndarray[Any, Any]) -> torch.Tensor:
        tensor = torch.as_tensor(np.ascontiguousarray(leaf)) if isinstance(leaf, np.ndarray) else leaf.detach()
        if tensor.dtype != value.dtype:
            raise PrecutError(
                f"input {value.name!r} was {str(value.dtype).removeprefix('torch.')} when the model was compiled; got "
                f"{str(tensor.dtype).removeprefix('torch.')}"
            )
        if tensor.device.type != "cpu":
            raise PrecutError(
                f"a compiled model runs on the CPU; input {value.name!r} is on {tensor.device}: call .cpu()"
            )
        if tensor.ndim != len(value.shape):
            raise PrecutError(
                f"input {value.name!r} had shape {tuple(value.shape)} when the model was compiled; got {tuple(tensor.shape)}"
            )
        return tensor

    def _check_sizes(self, tensors: Sequence[torch.Tensor]) -> None:
        """That the model's Python code would go the same way for inputs of these sizes; a run without numbers tells."""
        assert self._graph is not None
        with torch.no_grad():
            try:
                self._graph.run(*(tensor.to("meta") for tensor in tensors), model=self._meta)
            except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
                raise PrecutError(f"the network does not take inputs of these sizes: {error}") from error

    def explain(self, rounds: int = 0, inputs: Sequence[Any] | None = None) -> Table:
        """What runs each layer, and why.

        Args:
            rounds: forwards over which everything is timed first; 0 times nothing.
            inputs: inputs whose sizes the table is for (also what is timed); zeros of the example's shapes by default.

        Returns:
            A ``report.Table``: a row for each native operation and each node that runs in torch. ``macs`` are counted
            (kept weights times positions, for the whole batch); ``us`` and ``peak`` are measured, if at all.
        """
        from precut.engine._explain import explain

        return explain(self, rounds, inputs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the native file, which ``precut.runtime.load(path)`` and ``libprecut`` open without torch.

        Raises:
            PrecutError: when a part of the network runs in torch; names what and why.
        """
        fallen = [part for part in self.parts if isinstance(part, TorchPart)]
        if fallen:
            first = fallen[0]
            more = f" (and {len(fallen) - 1} more)" if len(fallen) > 1 else ""
            raise PrecutError(
                f"only a network that runs natively as a whole can be saved; {first.node.where}{more} runs in torch: "
                f"{first.reason}"
            )
        natives = [part for part in self.parts if isinstance(part, NativePart)]
        given = [value.id for value in self._inputs]
        if len(natives) != 1 or [v.id if v else None for _, v, _ in natives[0].segment.inputs] != given:
            raise PrecutError("only a network that computes something from each of its inputs can be saved")
        atomic_write(os.fspath(path), natives[0].data)

    def __repr__(self) -> str:
        fallen = sum(isinstance(part, TorchPart) for part in self.parts)
        return f"CompiledModel({self.mode}, {len(self.parts) - fallen} native segments, {fallen} nodes in torch)"
