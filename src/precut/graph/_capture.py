"""Capture by recorded execution: the model runs once on the example, and what it calls is written down.

A torch function mode sees every call on tensors, and while the model runs each module's ``forward`` is wrapped so that
leaf modules become one node and every call knows the module that it came from. Python control flow therefore just
works, with the example's values. Compared with torch.fx (which cannot follow control flow) and torch.export (which
takes seconds, renames operations to its own set and loses modules), this keeps the model's own modules and lines, and
costs little more than a forward.

Captures run one at a time (a lock holds that). Another thread that runs the same model meanwhile is not disturbed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from precut.errors import PrecutError
from precut.graph._aliases import Aliases
from precut.graph._attrs import normal_attrs, refine_op
from precut.graph._functions import DATA_READS, QUESTIONS, SIZES, canonical, function_name
from precut.graph._graph import Graph, Node, ParamRef, Value
from precut.graph._interpret import keeping_modes
from precut.graph._modules import is_leaf, leaf_attrs, leaf_op
from precut.graph._sizes import Guard, SizeInt, SizeRef, listening, trace_sizes
from precut.graph._structure import leaves, rebuild

__all__ = ["capture"]

_LOCK = threading.RLock()
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


class _Recorder(TorchFunctionMode):
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
        self.kept: list[Any] = []  # constants stay alive, so that no id is used twice
        self.refs: dict[int, ParamRef] = {}
        for kind, named in (("buffer", model.named_buffers()), ("parameter", model.named_parameters())):
            for name, tensor in named:
                self.refs[id(tensor)] = ParamRef(name, kind)
                self.kept.append(tensor)
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

    def refer(self, leaf: Any, what: str) -> Any:
        """What stands for an argument in a node: a Value, ParamRef or SizeRef; anything else as it is."""
        if isinstance(leaf, SizeInt):
            return leaf.ref
        if not isinstance(leaf, torch.Tensor):
            return leaf
        overwritten = self.aliases.stale(leaf)
        if overwritten is not None:
            raise PrecutError(
                f"{what} reads a tensor that {overwritten} overwrote in place through another tensor of the same memory: "
                "write out of place, or take the view after the write"
            )
        value = self.aliases.value(leaf)
        if value is not None:
            return value
        if id(leaf) not in self.refs:
            self.refs[id(leaf)] = ParamRef(f"constant_{len(self.constants)}", "constant")
            self.constants[self.refs[id(leaf)].name] = leaf
            self.kept.append(leaf)
        return self.refs[id(leaf)]

    def tensor_of(self, ref: ParamRef) -> torch.Tensor:
        return next(tensor for tensor in self.kept if self.refs.get(id(tensor)) == ref)

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
                    f"{shown}() of a tensor at {_source(self.stop) or 'an unknown line'} cannot be captured: the program would "
                    "depend on the input's values; a capture follows one path for all inputs"
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
                    params[role if role not in params else f"{role}{len(params)}"] = (leaf.name, self.tensor_of(leaf))
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


@contextlib.contextmanager
def _wrapped(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Every module's ``forward`` reports to the recorder, until the block ends."""
    replaced: list[tuple[nn.Module, bool, Any]] = []

    def wrap(module: nn.Module, path: str) -> None:
        own = module.forward
        leaf = is_leaf(module)

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if recorder.paused or threading.get_ident() != recorder.thread:
                return own(*args, **kwargs)
            if leaf:
                return recorder.record(leaf_op(module), module, path, own, args, kwargs, leaf_attrs(module))
            recorder.scopes.append(path)
            try:
                return own(*args, **kwargs)
            finally:
                recorder.scopes.pop()

        replaced.append((module, "forward" in vars(module), vars(module).get("forward")))
        vars(module)["forward"] = forward

    try:
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                wrap(module, path)
        yield
    finally:
        for module, had, own in replaced:
            if had:
                vars(module)["forward"] = own
            else:
                vars(module).pop("forward", None)


@contextlib.contextmanager
def _untouched(model: nn.Module, tensors: list[torch.Tensor]) -> Iterator[None]:
    """Buffers and random number generators as before when the block ends."""
    # Batch norm updates its statistics without counting it as a new version, so values have to be compared.
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    owners = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    devices = sorted({tensor.device.index or 0 for tensor in (*tensors, *model.parameters()) if tensor.is_cuda})
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(state)
        with torch.no_grad():
            for buffer, copy in buffers:
                if not buffer.is_meta and not torch.equal(buffer, copy):
                    buffer.copy_(copy)
        for module, before in owners:
            module._buffers.update(before)  # a buffer that was replaced by assignment


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) from what the user passed."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, torch.Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, dict):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    if any(isinstance(leaf, torch.Tensor) for leaf in leaves((args, kwargs))):
        return args, kwargs
    hint = ""
    if args and all(isinstance(size, int) for size in args):
        hint = f": pass torch.zeros({', '.join(map(str, args))})"
    raise PrecutError(
        "example_inputs must be a tensor, a tuple of arguments or a dict of keyword arguments with at least one tensor; got "
        f"{type(example_inputs).__name__} {example_inputs!r:.60}{hint}"
    )


def _parameter_names(model: nn.Module, count: int) -> list[str]:
    try:
        names = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    except (TypeError, ValueError):
        names = []
    return [names[i] if i < len(names) else f"input{i}" for i in range(count)]


def capture(model: nn.Module, example_inputs: Any, *, training: bool | None = False) -> Graph:
    """Records what ``model`` computes on ``example_inputs``.

    The model runs once, without gradients; its parameters, buffers, modes, hooks and the random number generators are
    afterwards as before, also when it fails. Control flow is followed as it goes on the example: a branch on a *shape*
    is fixed as it was taken; sizes that are computed from shapes by whole-number arithmetic follow other inputs later.

    Args:
        model: any module.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments; may be
            nested.
        training: False captures in eval mode, True in training mode, None with every module in its own mode.

    Returns:
        The Graph; ``graph.verify()`` checks it against the model, ``graph.spaces`` holds the coupled channels.

    Raises:
        PrecutError: when the program depends on a tensor's values (``bool()``, ``.item()`` ...), or reads a tensor
            that was overwritten in place through a view; the message names the operation and the line. Wrong arguments
            likewise.
    """
    if not isinstance(model, nn.Module):
        hint = f": pass an instance, {model.__name__}(...)" if isinstance(model, type) else ""
        raise PrecutError(f"capture takes an nn.Module; got {type(model).__name__} {model!r:.60}{hint}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise PrecutError(
                f"parameter {name!r} has no shape yet (a lazy layer): run the model once, then capture it"
            )
    args, kwargs = _arguments(example_inputs)
    originals = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    recorder = _Recorder(model, sys._getframe())
    numbered = iter(range(len(originals)))
    names = [*_parameter_names(model, len(args)), *kwargs]

    def enter(leaf: Any, name: str) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        copied = leaf.detach().clone()  # the model may write into its input
        recorder.kept.append(copied)
        index = next(numbered)
        recorder.add_input(copied, name if all(value.name != name for value in recorder.inputs) else f"{name}_{index}")
        return copied

    with _LOCK, torch.inference_mode(False), torch.no_grad(), _untouched(model, originals):
        given = [
            rebuild(item, functools.partial(enter, name=name))
            for name, item in zip(names, (*args, *kwargs.values()), strict=True)
        ]
        modes = contextlib.nullcontext() if training is None else keeping_modes(model, training)
        with modes, _wrapped(model, recorder), listening(recorder.learned), recorder:
            result = model(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))
        returned = rebuild(result, functools.partial(recorder.refer, what="the model's result"))
    signature = (tuple(rebuild(args, lambda leaf: leaf)), dict(kwargs))
    return Graph(
        model,
        recorder.nodes,
        recorder.inputs,
        signature,
        returned,
        recorder.constants,
        (args, kwargs),
        bool(training),
        list(dict.fromkeys(recorder.guards)),
    )
