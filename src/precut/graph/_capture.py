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
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from precut.errors import PrecutError, first_line
from precut.graph._graph import Graph
from precut.graph._interpret import keeping_modes
from precut.graph._modules import is_leaf, leaf_attrs, leaf_op
from precut.graph._recorder import Recorder
from precut.graph._sizes import listening
from precut.graph._structure import leaves, rebuild

__all__ = ["capture"]

_LOCK = threading.RLock()


@contextlib.contextmanager
def _wrapped(model: nn.Module, recorder: Recorder) -> Iterator[None]:
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
        "example_inputs must be a tensor, a tuple of arguments or a dict of keyword arguments with at least one "
        f"tensor; got {type(example_inputs).__name__} {example_inputs!r:.60}{hint}"
    )


def _parameter_names(model: nn.Module, count: int) -> list[str]:
    try:
        names = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    except (TypeError, ValueError):
        names = []
    return [names[i] if i < len(names) else f"input{i}" for i in range(count)]


def _cannot_run(model: nn.Module, tensors: list[torch.Tensor], error: Exception) -> PrecutError:
    shapes = ", ".join(f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in tensors)
    why = f"{type(error).__name__}: {first_line(error)}"
    return PrecutError(f"{type(model).__name__} cannot run on example_inputs of shape {shapes}: {why}")


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
            likewise, and examples on which the model fails (its own error is the cause).
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
    recorder = Recorder(model, sys._getframe())
    numbered = iter(range(len(originals)))
    names = [*_parameter_names(model, len(args)), *kwargs]

    def enter(leaf: Any, name: str) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        copied = leaf.detach().clone()  # the model may write into its input
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
            try:
                result = model(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))
            except PrecutError:
                raise
            except Exception as error:
                raise _cannot_run(model, originals, error) from error
        returned = rebuild(result, functools.partial(recorder.refer, what="the model's result"))
    recorder.stop = None  # a frame that held the recorder that held it would keep all the callers' tensors alive
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
