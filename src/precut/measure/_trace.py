"""Runs a model once and records each operator that multiplies, for which layer it works, and what it reads and writes.

The model really runs, so control flow, functional calls and user-made modules need no special case. Operators are seen
as the model calls them (a convolution, a linear layer, a sparse operator of ours), before torch takes them apart for a
device or for autograd; one without a formula is taken apart until its parts have formulas.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from precut.errors import PrecutError, first_line
from precut.measure._formulas import Work, formula_of, is_opaque
from precut.measure._inputs import as_inputs, batch_of, check_model

__all__ = ["Call", "Trace", "trace"]


@dataclass(frozen=True)
class Call:
    """One call of an operator that multiplies; numbers are for the whole batch.

    Attributes:
        layer: the row it belongs to: a module's path, or that and the operator ("attn.matmul").
        op: name of the operator.
        macs, macs_dense: multiply-adds done, and those of the dense operator in its place.
        output: shape of the result.
        weight_bytes, weight_bytes_dense: of the weight operand (0 without one).
        input_bytes, output_bytes: of the other operands and of the result.
        reads_input: an operand is the model's input itself, which needs no gradient.
        trains: the weight takes gradients.
    """

    layer: str
    op: str
    macs: int
    macs_dense: int
    output: tuple[int, ...]
    weight_bytes: int
    weight_bytes_dense: int
    input_bytes: int
    output_bytes: int
    reads_input: bool
    trains: bool


@dataclass
class Trace:
    """What a run showed.

    Attributes:
        batch: examples in the run.
        calls: in execution order.
        names: the row of every module.
        rows: rows of layers with parameters and of calls, in order of first execution; then layers that never ran.
        ran: those of them that ran.
        outputs: module path to the shape of its (first) output.
        not_counted: (operator, layer) to the number of calls that no formula covers.
    """

    batch: int
    names: dict[nn.Module, str]
    calls: list[Call] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    not_counted: dict[tuple[str, str], int] = field(default_factory=dict)


def _storage(tensor: torch.Tensor) -> int:
    """Something that equals for tensors that share memory."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):  # sparse tensors, some tensor subclasses
        return id(tensor)


def _first_tensor(output: Any) -> torch.Tensor | None:
    """The first tensor in what a module or an operator returned."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return next((found for found in map(_first_tensor, output) if found is not None), None)
    return None


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def place_of(tensor: torch.Tensor) -> int:
    """Something that equals for tensors that begin at the same place of the same memory."""
    try:
        return tensor.data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _fills_storage(tensor: torch.Tensor) -> bool:
    try:
        return tensor.untyped_storage().nbytes() == _bytes(tensor)
    except (NotImplementedError, RuntimeError):
        return False


def compact_weight(module: nn.Module) -> tuple[nn.Parameter, tuple[int, ...]] | None:
    """(the weights that exist, the dense weight's shape) of a layer that stores only those: by its ``precut_op``, or by a
    parametrization of its weight that has a ``dense_shape``. None for any other module."""
    if hasattr(module, "precut_op"):
        shape = tuple(getattr(module, "dense_shape", ()))
        return (module.weight, shape) if shape else None  # type: ignore[return-value]
    computed = getattr(getattr(module, "parametrizations", None), "weight", None)
    shape = tuple(getattr(computed[0], "dense_shape", ())) if computed is not None else ()
    return (computed.original, shape) if shape else None  # type: ignore[union-attr]


def missing_bytes(model: nn.Module, trained: bool = False) -> int:
    """Bytes of the weights that the dense network would have besides; with ``trained``, in layers that are not frozen."""
    found = [compact for module in model.modules() if (compact := compact_weight(module)) is not None]
    return sum(
        (math.prod(shape) - weight.numel()) * weight.element_size()
        for weight, shape in found
        if weight.requires_grad or not trained
    )


def _row_names(model: nn.Module) -> dict[nn.Module, str]:
    """Each module's path; what only holds parameters for another (a parametrization, a list) has the other's."""
    names = {}
    for path, module in model.named_modules():
        parts = [part for part in path.split(".") if part != "_orig_mod"]
        if "parametrizations" in parts:
            parts = parts[: parts.index("parametrizations")]
        if isinstance(module, (nn.ParameterList, nn.ParameterDict)):
            parts = parts[:-1]
        names[module] = ".".join(part for part in parts if part) or f"({type(model).__name__})"
    return names


_Owner = tuple[nn.Module, nn.Parameter]


class _Recorder(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        super().__init__()
        self.found = Trace(batch_of(inputs), _row_names(model))
        self.stack: list[nn.Module] = [model]
        self.inputs = {_storage(item) for item in inputs if isinstance(item, torch.Tensor)}
        self.owners: dict[int, _Owner] = {}
        self.whole: dict[int, _Owner] = {}  # parameters that fill their storage: any view of it is of them
        for module in model.modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    self.owners.setdefault(place_of(parameter), (module, parameter))
                    if _fills_storage(parameter):
                        self.whole.setdefault(_storage(parameter), (module, parameter))

    def owner_of(self, tensor: torch.Tensor) -> _Owner | None:
        """The parameter that ``tensor`` is, or is a view of, with its module."""
        return self.owners.get(place_of(tensor)) or self.whole.get(_storage(tensor))

    def enter(self, module: nn.Module, args: Any) -> None:
        self.stack.append(module)
        if any(parameter is not None for parameter in module._parameters.values()):
            self.mark(self._name(module))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()
        result = _first_tensor(output)
        if result is not None:
            self.found.outputs.setdefault(self._name(module), tuple(result.shape))

    def _name(self, module: nn.Module) -> str:
        return self.found.names.get(module) or f"({type(module).__name__})"

    def mark(self, row: str) -> None:
        if row not in self.found.ran:
            self.found.ran.add(row)
            self.found.rows.append(row)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name()
        if not isinstance(func, torch._ops.OpOverload):  # control flow as an operator: its branches are not seen
            name = f"higher_order::{name}"
        name = name.partition(".")[0]
        formula = formula_of(name)
        if formula is None and isinstance(func, torch._ops.OpOverload):
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if formula is not None:
            self.record(formula(output, *args, **kwargs), output)
        elif is_opaque(name):
            key = (name, self._name(self.stack[-1]))
            self.found.not_counted[key] = self.found.not_counted.get(key, 0) + 1
        return output

    def record(self, work: Work, output: Any) -> None:
        module = self.stack[-1]
        tensors = [tensor for tensor in (work.weight, *work.operands) if tensor is not None]
        owners = [owner for owner in map(self.owner_of, tensors) if owner is not None]
        weights = [tensor for tensor in tensors if tensor is work.weight or self.owner_of(tensor) is not None]
        macs, dense_numel = work.macs, work.weight_numel_dense
        held = compact_weight(module)
        if held is not None and not owners:
            stored, shape = held
            # A sparse layer that multiplies by its scattered weight: what counts is what exists.
            scattered = next((tensor for tensor in tensors if sorted(tensor.shape) == sorted(shape)), None)
            if scattered is not None:
                weights, dense_numel = [scattered], scattered.numel()
                macs = macs * stored.numel() // dense_numel
        weight_bytes = weight_bytes_dense = sum(map(_bytes, weights))
        if dense_numel is not None:
            weight_bytes_dense = dense_numel * weights[0].element_size()
            weight_bytes = weight_bytes_dense * macs // max(1, work.macs_dense)
        layer = self.layer_of(module, owners, work.op)
        self.mark(layer)
        data = [tensor for tensor in tensors if not any(tensor is weight for weight in weights)]
        result = _first_tensor(output)
        self.found.calls.append(
            Call(
                layer,
                work.op,
                macs,
                work.macs_dense,
                () if result is None else tuple(result.shape),
                weight_bytes,
                weight_bytes_dense,
                sum(map(_bytes, data)),
                0 if result is None else _bytes(result),
                any(_storage(tensor) in self.inputs for tensor in data),
                any(parameter.requires_grad for _, parameter in owners) if owners else bool(weights),
            )
        )

    def layer_of(self, module: nn.Module, owners: list[_Owner], op: str) -> str:
        if owners:
            own = {id(parameter) for parameter in module._parameters.values()}
            if any(id(parameter) in own for _, parameter in owners):
                return self._name(module)  # a weight that is shared: the module that uses it now
            return self._name(owners[0][0])
        inner = [child for name, child in module.named_children() if name != "parametrizations"]
        name = self._name(module)
        return f"{name}.{op}" if inner else name


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, no fused paths; afterwards modes, buffers and random state are as they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    fast = torch.backends.mha.get_fastpath_enabled()
    compiled = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in modes)
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.enter_context(torch.no_grad())
            if compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole encoder layer tells nothing
            model.eval()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                if not buffer.is_meta and buffer.shape == value.shape and not torch.equal(buffer, value):
                    buffer.copy_(value)


def trace(model: nn.Module, example_inputs: Any, what: str) -> Trace:
    """Runs ``model`` on ``example_inputs`` and returns what was seen; ``what`` is the caller's name, for messages.

    Raises:
        PrecutError: when the model or the inputs are of the wrong kind, or the model cannot run on them.
    """
    check_model(model, what)
    inputs = as_inputs(example_inputs)
    try:
        try:
            found = _run(model, inputs, below_autograd=True)
        except PrecutError:
            raise
        except Exception:
            # A model that differentiates inside its forward needs autograd, though operators then arrive in parts.
            found = _run(model, inputs, below_autograd=False)
    except PrecutError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(i.shape)) if isinstance(i, torch.Tensor) else type(i).__name__ for i in inputs)
        why = f"{type(error).__name__}: {first_line(error)}"
        raise PrecutError(f"{type(model).__name__} cannot run on example_inputs of shape {shapes}: {why}") from error
    for module in model.modules():
        if any(parameter is not None for parameter in module._parameters.values()):
            name = found.names[module]
            if name not in found.rows:
                found.rows.append(name)
    return found


def _run(model: nn.Module, inputs: tuple[Any, ...], below_autograd: bool) -> Trace:
    recorder = _Recorder(model, inputs)
    hooks = []
    try:
        for module in model.modules():
            hooks.append(module.register_forward_pre_hook(recorder.enter, prepend=True))
            hooks.append(module.register_forward_hook(recorder.leave))
        with contextlib.ExitStack() as stack:
            stack.enter_context(_undisturbed(model))
            if below_autograd:
                # Here composite operators arrive whole; autograd would have torch take them apart before.
                stack.enter_context(torch._C._AutoDispatchBelowAutograd())
            stack.enter_context(recorder)
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.found
