"""compile: from a model to a callable that runs natively what it can."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from precut import runtime
from precut.engine._compiled import CompiledModel, NativePart, TorchPart, torch_part
from precut.engine._inputs import NO_IMAGE
from precut.engine._partition import Partition, Segment, partition
from precut.engine._steps import write
from precut.errors import PrecutError, unknown, whole
from precut.graph import Graph, capture, leaves

__all__ = ["compile", "refusal"]

_warned = False


def compile(model: nn.Module, example_inputs: Any, threads: int | None = None, autotune: bool = True) -> CompiledModel:
    """Makes a network ready to run fast on this CPU, for inference in float32.

    Batch norms are folded, activations and residual additions joined to the layers before them, and everything that
    the native library knows (docs/supported-operations.md) runs in one native call a forward. The rest runs in torch
    between such calls; ``explain()`` tells what and why.

    Args:
        model: any module; sparse layers keep their supports. It is compiled in eval mode, is not changed, and its
            weights are copied: compile again after training on.
        example_inputs: a float32 tensor, a tuple of arguments or a dict of keyword arguments. Other batch sizes work
            later, and other image sizes where the network takes them.
        threads: threads of a native call, the caller's included, at most 1024; None is one for each core.
        autotune: time the candidates for each layer, once for each input shape, with results kept on disk; False
            takes the choice of a cost model.

    The environment's PRECUT_OPS=reference makes everything run in torch; so does an installation without the native
    library, with one warning.

    Raises:
        PrecutError: a model that cannot be captured, is not float32 on the CPU, or behaves in eval mode as in training;
            an example that the model does not take, or without an image; an environment variable or a native library
            that cannot be used.
    """
    if threads is not None:
        whole("threads", threads, 1, runtime.MAX_THREADS)
    if not isinstance(autotune, bool):
        raise PrecutError(f"autotune must be True or False; got {autotune!r}")
    own = getattr(model, "__precut_compile__", None)
    if own is not None:  # a model of several networks makes each ready
        return own(example_inputs, threads, autotune)
    mode = _mode()
    for name, tensor in _example(example_inputs):
        if tensor.ndim and not tensor.shape[0]:
            raise PrecutError(f"compile {NO_IMAGE}; {name} of the example has shape {tuple(tensor.shape)}")
    try:
        graph = capture(model, example_inputs)
    except PrecutError as error:
        if error.__cause__ is None:
            raise
        raise refusal(model, example_inputs, error) from error.__cause__
    _check(graph)
    return CompiledModel(graph, _parts(graph, mode, threads, autotune), mode)


def _mode() -> str:
    """ "native" or "reference"."""
    global _warned
    asked = os.environ.get("PRECUT_OPS", "")
    if asked not in ("", "native", "reference"):
        raise unknown("value of PRECUT_OPS", asked, ("native", "reference"))
    if asked == "reference":
        return "reference"
    if runtime.available():
        # What is wrong with the library or the environment (PRECUT_ISA) is told, not taken for a network that it refuses.
        builder = runtime.BlobBuilder()
        builder.output(builder.activation(builder.input("x", (1, 1)), "relu"))
        runtime.load(builder.bytes(), threads=1, autotune=False).close()
        return "native"
    if not _warned:
        _warned = True
        warnings.warn(
            "the native library libprecut is not part of this installation: compiled models run in torch, without its "
            "speed (PRECUT_OPS=reference asks for that without this warning)",
            stacklevel=3,
        )
    return "reference"


def _example(example_inputs: Any) -> list[tuple[str, torch.Tensor]]:
    tensors = [leaf for leaf in leaves(example_inputs) if isinstance(leaf, torch.Tensor)]
    return [(f"input {number}", tensor) for number, tensor in enumerate(tensors)]


def _check(graph: Graph) -> None:
    """float32 on the CPU throughout."""
    tensors = [leaf for leaf in leaves(graph.signature) if isinstance(leaf, torch.Tensor)]
    named = [(f"input {value.name!r}", tensor) for value, tensor in zip(graph.inputs, tensors, strict=True)]
    unfit = _unfit([*named, *(pair for node in graph.nodes for pair in node.params.values())])
    if unfit is not None:
        raise unfit


def _unfit(named: Iterable[tuple[str, torch.Tensor]]) -> PrecutError | None:
    """What is wrong with the first of these tensors that cannot be compiled."""
    for name, tensor in named:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if (tensor.dtype.is_floating_point and tensor.dtype != torch.float32) or tensor.dtype.is_complex:
            return PrecutError(f"compile needs a float32 model and float32 inputs; {name} is {dtype}: call .float()")
        if tensor.is_meta:
            return PrecutError(f"compile needs numbers; {name} is on the meta device, which has none: load it first")
        if tensor.device.type != "cpu":
            return PrecutError(f"compile needs model and inputs on the CPU; {name} is on {tensor.device}: call .cpu()")
        if tensor.layout != torch.strided:
            return PrecutError(f"compile needs dense tensors; {name} is {tensor.layout}: call .to_dense()")
    return None


def refusal(model: nn.Module, example_inputs: Any, error: Exception) -> PrecutError:
    """Why a model failed on an example: dtypes, devices and layouts first, then what it said itself."""
    unfit = _unfit([*_example(example_inputs), *model.named_parameters(), *model.named_buffers()])
    if unfit is None and isinstance(error, PrecutError):
        return error
    return unfit or PrecutError(f"the model does not take these example inputs: {type(error).__name__}: {error}")


def _parts(graph: Graph, mode: str, threads: int | None, autotune: bool) -> list[NativePart | TorchPart]:
    forced: dict[int, str] = {}
    if mode == "reference":
        forced = {node.index: "the reference was asked for, or the native library is missing" for node in graph.nodes}
    while True:
        plan = partition(graph, forced)
        refused, parts = _opened(plan, threads, autotune)
        if not refused:
            return parts
        forced.update(refused)


def _opened(
    plan: Partition, threads: int | None, autotune: bool
) -> tuple[dict[int, str], list[NativePart | TorchPart]]:
    """The parts; or, by node index, why the library would not take a segment."""
    parts: list[NativePart | TorchPart] = []
    for item in plan.items:
        if not isinstance(item, Segment):
            parts.append(torch_part(item, plan.reasons[item.index]))
            continue
        inputs = [
            (number, value.name if value is not None else f"value_{number}", shape)
            for number, value, shape in item.inputs
        ]
        data = write(item.steps, inputs, [(number, f"output_{k}") for k, number in enumerate(item.outputs)])
        try:
            model = runtime.load(data, threads=threads, autotune=autotune)
            model.prepare(*(shape for _, _, shape in item.inputs))
        except PrecutError as error:
            return {node.index: f"the native library refused it: {error}" for node in item.nodes}, []
        # The steps' weights are in ``data`` now.
        for step in item.steps:
            step.args.clear()
        parts.append(NativePart(item, model, data))
    return {}, parts
