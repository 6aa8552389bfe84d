"""compile: from a model to a callable that runs natively what it can."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import torch
from torch import nn

from precut import runtime
from precut.engine._compiled import CompiledModel, NativePart, TorchPart, torch_part
from precut.engine._partition import Partition, Segment, partition
from precut.engine._steps import write
from precut.errors import PrecutError, unknown, whole
from precut.graph import Graph, capture

__all__ = ["compile"]

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
        threads: threads of a native call, the caller's included; None is one for each core.
        autotune: time the candidates for each layer, once for each input shape, with results kept on disk; False
            takes the choice of a cost model.

    The environment's PRECUT_OPS=reference makes everything run in torch; so does an installation without the native
    library, with one warning.

    Raises:
        PrecutError: a model that cannot be captured, is not float32 on the CPU, or behaves in eval mode as in training.
    """
    if threads is not None:
        whole("threads", threads)
    if not isinstance(autotune, bool):
        raise PrecutError(f"autotune must be True or False; got {autotune!r}")
    own = getattr(model, "__precut_compile__", None)
    if own is not None:  # a model of several networks makes each ready
        return own(example_inputs, threads, autotune)
    mode = _mode()
    graph = capture(model, example_inputs)
    _check(graph)
    parts = _parts(graph, mode, threads, autotune)
    meta = _meta(graph) if graph.guards else None
    return CompiledModel(graph, parts, meta, mode)


def _mode() -> str:
    """ "native" or "reference"."""
    global _warned
    asked = os.environ.get("PRECUT_OPS", "")
    if asked not in ("", "native", "reference"):
        raise unknown("value of PRECUT_OPS", asked, ("native", "reference"))
    if asked == "reference":
        return "reference"
    if runtime.available():
        return "native"
    if not _warned:
        _warned = True
        warnings.warn(
            "the native library libprecut is not part of this installation: compiled models run in torch, without its "
            "speed (PRECUT_OPS=reference asks for that without this warning)",
            stacklevel=3,
        )
    return "reference"


def _check(graph: Graph) -> None:
    """float32 on the CPU throughout."""
    tensors = [(f"input {value.name!r}", value.dtype) for value in graph.inputs]
    tensors += [(name, tensor.dtype) for node in graph.nodes for name, tensor in node.params.values()]
    for name, dtype in tensors:
        if (dtype.is_floating_point and dtype != torch.float32) or dtype.is_complex:
            raise PrecutError(
                f"compile needs a float32 model and float32 inputs; {name} is {str(dtype).removeprefix('torch.')}: call "
                ".float()"
            )
    for node in graph.nodes:
        for name, tensor in node.params.values():
            if tensor.device.type != "cpu":
                raise PrecutError(f"compile needs a model on the CPU; {name} is on {tensor.device}: call .cpu()")


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


def _meta(graph: Graph) -> nn.Module:
    """The model without numbers, to ask which way its Python code would go for other sizes."""
    memo: dict[int, Any] = {}
    for tensor in (*graph.model.parameters(), *graph.model.buffers()):
        made = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made
    graph.constants = {name: tensor.to("meta") for name, tensor in graph.constants.items()}
    return copy.deepcopy(graph.model, memo).eval()
