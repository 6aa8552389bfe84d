"""What watches a model run and writes down its calls."""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from precut.errors import PrecutError
from precut.graph._aliases import Aliases
from precut.graph._attrs import normal_attrs, refine_op
from precut.graph._functions import DATA_READS, QUESTIONS, SIZES, canonical, function_name
from precut.graph._graph import Node, ParamRef, Value
from precut.graph._sizes import Guard, SizeInt, SizeRef, trace_sizes
from precut.graph._structure import leaves, rebuild

__all__ = ["Recorder"]

_SKIPPED = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)


def _source(stop: Any) -> str:
    """ "file.py:12" of the innermost frame that is neither torch's nor this room's, up to the frame ``stop``."""
    frame = sys._getframe(1)
    while frame is not None and frame is not stop:
        filename = frame.f_code.co_filename
        if not filename.startswith(_SKIPPED) and not filename.startswith("<"):
            return f"{os.path.basename(filename)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _version(tensor: torch.Tensor) -> int:
    """Grows with every write in place; tensors made for inference do not count."""
    return 0 if tensor.is_inference() else int(tensor._version)


class Recorder(TorchFunctionMode):
    """Writes down every call on tensors while the model runs in the thread that captures."""

    def __init__(self, model: nn.Module, stop: Any) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.stop = stop
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.aliases = Aliases()
        self.count = 0
        self.depends_on_data: set[int] = set()  # ids of values that come from the inputs
        self.guards: list[Guard] = []
        self.paused = False
        self.scopes: list[str] = [""]
        self.refs: dict[int, ParamRef] = {}
        self.tensors: dict[ParamRef, torch.Tensor] = {}  # also keeps them alive, so that no id is used twice
        for kind, named in (("buffer", model.named_buffers()), ("parameter", model.named_parameters())):
            for name, tensor in named:
                self.add_ref(tensor, ParamRef(name, kind))
        self.reserved = {name for name, _ in model.named_modules()}
        self.uses: Counter[str] = Counter()
        self.used: set[str] = set()

    # ---- values ----------------------------------------------------------------------------------------------------

    def new_value(self, tensor: torch.Tensor, name: str, node: Node | None, from_data: bool) -> Value:
        value = Value(self.count, name, tuple(int(size) for size in tensor.shape), tensor.dtype, node)
        self.count += 1
        if from_data:
            self.depends_on_data.add(value.id)
        self.aliases.bind(tensor, value)
        return value

    def add_input(self, tensor: torch.Tensor, name: str) -> None:
        self.inputs.append(self.new_value(tensor, name, None, True))

    def add_ref(self, tensor: torch.Tensor, ref: ParamRef) -> None:
        self.refs[id(tensor)] = ref
        self.tensors[ref] = tensor

    def refer(self, leaf: Any, what: str) -> Any:
        """What stands for an argument in a node: a Value, ParamRef or SizeRef; anything else as it is."""
        if isinstance(leaf, SizeInt):
            return leaf.ref
        if not isinstance(leaf, torch.Tensor):
            return leaf
        overwritten = self.aliases.stale(leaf)
        if overwritten is not None:
            raise PrecutError(
                f"{what} reads a tensor that {overwritten} overwrote in place through another tensor of the same "
                "memory: write out of place, or take the view after the write"
            )
        value = self.aliases.value(leaf)
        if value is not None:
            return value
        if id(leaf) not in self.refs:
            self.add_ref(leaf, ParamRef(f"constant_{len(self.constants)}", "constant"))
            self.constants[self.refs[id(leaf)].name] = leaf
        return self.refs[id(leaf)]

    def unique(self, wanted: str, is_path: bool) -> str:
        name = wanted
        while name in self.used or (not is_path and name in self.reserved):
            self.uses[wanted] += 1
            name = f"{wanted}#{self.uses[wanted] + 1}"
        self.used.add(name)
        return name

    # ---- calls -----------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = function_name(func)
        if name in SIZES and isinstance(args[0], torch.Tensor):
            return self.sizes(func, name, args, kwargs)
        if name in DATA_READS:
            self.refuse_data(name, (*args, *kwargs.values()))
        elif name not in QUESTIONS:
            op, bound = canonical(name, args, kwargs)
            return self.record(op, None, self.scopes[-1], func, args, kwargs, bound)
        return func(*args, **kwargs)

    def sizes(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = self.aliases.value(args[0])
        if value is None or value.id not in self.depends_on_data:
            return func(*args, **kwargs)
        sizes = trace_sizes(args[0].shape, value.id)
        if name == "__len__":
            self.learned(int, (sizes[0].ref,), value.shape[0])  # type: ignore[attr-defined]  # len() makes plain numbers
            return value.shape[0]
        if name in ("numel", "nelement"):
            return math.prod(sizes, start=1)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        return sizes if dim is None else sizes[dim]

    def learned(self, function: Callable[..., Any], operands: tuple[Any, ...], outcome: Any) -> None:
        """The model's code learned something from a size."""
        if not self.paused and threading.get_ident() == self.thread:
            self.guards.append(Guard(function, operands, outcome, _source(self.stop)))

    def refuse_data(self, name: str, items: Any) -> None:
        for leaf in leaves(tuple(items)):
            value = self.aliases.value(leaf) if isinstance(leaf, torch.Tensor) else None
            if value is not None and value.id in self.depends_on_data:
                shown = {"__bool__": "bool", "__int__": "int", "__float__": "float", "__array__": "numpy"}.get(
                    name, name.strip("_")
                )
                raise PrecutError(
                    f"{shown}() of a tensor at {_source(self.stop) or 'an unknown line'} cannot be captured: the "
                    "program would depend on the input's values; a capture follows one path for all inputs"
                )

    def record(
        self,
        op: str,
        module: nn.Module | None,
        path: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        bound: dict[str, Any],
    ) -> Any:
        """Makes the call, and the node that it becomes."""
        source = _source(self.stop)
        what = f"{op} at {source}" if source else f"{op} ({path})"
        refer = functools.partial(self.refer, what=what)
        self.paused = True
        try:
            kept_args, kept_kwargs, kept_bound = (rebuild(item, refer) for item in (args, kwargs, bound))
            tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            versions = [_version(tensor) for tensor in tensors]
            result = func(*args, **kwargs)
            made = [leaf for leaf in leaves(result) if isinstance(leaf, torch.Tensor)]
            written = [t for t, before in zip(tensors, versions, strict=True) if _version(t) != before]
            if made or written:
                node = self.node(op, module, path, source, func, kept_args, kept_kwargs, kept_bound)
                from_data = any(value.id in self.depends_on_data for value in node.inputs)
                self.attach(node, result, made, written, from_data, what)
                self.nodes.append(node)
        finally:
            self.paused = False
        return result

    def node(
        self, op: str, module: nn.Module | None, path: str, source: str, func: Any, args: Any, kwargs: Any, bound: Any
    ) -> Node:
        inputs = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Value)]
        params: dict[str, tuple[str, torch.Tensor]] = {}
        if module is not None:
            prefix = f"{path}." if path else ""
            for role, tensor in (*module.named_parameters(), *module.named_buffers()):
                params[role] = (self.refs[id(tensor)].name if id(tensor) in self.refs else prefix + role, tensor)
        roles = (
            bound.items()
            if module is None and bound
            else ((f"arg{i}", arg) for i, arg in enumerate((*args, *kwargs.values())))
        )
        for role, item in roles:
            for leaf in leaves(item):
                if isinstance(leaf, ParamRef):
                    params[role if role not in params else f"{role}{len(params)}"] = (leaf.name, self.tensors[leaf])
        plain = rebuild(bound, lambda leaf: leaf.example if isinstance(leaf, SizeRef) else leaf)
        attrs = {
            role: item
            for role, item in plain.items()
            if not any(isinstance(leaf, (Value, ParamRef)) for leaf in leaves(item)) and role not in ("weight", "bias")
        }
        short = op.rpartition("::")[2].removeprefix("torch.")
        name = self.unique(
            (path or op) if module is not None else f"{path}.{short}" if path else short, module is not None
        )
        return Node(
            op, name, len(self.nodes), module, path, params, inputs, [], attrs, {} if module else bound, source,
            None if module is not None else func, args, kwargs,
        )  # fmt: skip

    def attach(
        self, node: Node, result: Any, made: list[torch.Tensor], written: list[torch.Tensor], from_data: bool, what: str
    ) -> None:
        """Gives the node its outputs and binds the tensors to them."""
        before = {id(tensor): self.aliases.value(tensor) for tensor in written}
        for tensor in written:
            if self.refs.get(id(tensor), ParamRef("", "")).kind == "parameter":
                raise PrecutError(
                    f"{what} writes into parameter {self.refs[id(tensor)].name!r}: a capture cannot follow that"
                )
            self.aliases.written(tensor, what)
        numbered: dict[int, Value] = {}

        def out(tensor: torch.Tensor) -> Value:
            if id(tensor) not in numbered:
                numbered[id(tensor)] = self.new_value(tensor, node.name, node, from_data)
            return numbered[id(tensor)]

        node.result = rebuild(result, lambda leaf: out(leaf) if isinstance(leaf, torch.Tensor) else leaf)
        writes = []
        for tensor in written:
            old = before[id(tensor)]
            if id(tensor) not in numbered and old is not None:
                writes.append((old, out(tensor)))
        node.writes = tuple(writes)
        node.outputs = list(numbered.values())
        if len(node.outputs) > 1:
            for index, value in enumerate(node.outputs):
                value.name = f"{node.name}[{index}]"
        for value in dict.fromkeys(node.inputs):
            value.consumers.append(node)
        shapes = [value.shape for value in node.inputs] + [tuple(tensor.shape) for _, tensor in node.params.values()]
        if shapes:
            shape = shapes[0]
            node.attrs = normal_attrs(node.op, node.attrs, len(shape))
            node.op = refine_op(node.op, node.bound, node.attrs, shape, node.outputs[0].shape)
