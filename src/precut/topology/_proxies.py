"""Neighbours of NN-Mass: scores of untrained networks that look at activations or gradients.

Written from the papers' definitions. Each works on a copy; none changes the model or the global random state.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from precut.errors import PrecutError
from precut.graph import Graph, Node, capture
from precut.topology._isometry import with_batch_statistics
from precut.topology._layers import is_layer

__all__ = ["naswot", "zen", "zico"]

_SWITCHES = (
    "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish",
)  # fmt: skip
# What lies between the last features and the classifier.
_HEADS = ("adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "mean", "amax", "flatten", "reshape", "dropout",
          "squeeze", "identity")  # fmt: skip


def naswot(model: nn.Module, inputs: Tensor) -> float:
    """log |det K|, K_ij the number of activation units that are on for both inputs i and j or off for both (Mellor,
    Turner, Storkey, Crowley, "Neural Architecture Search without Training", ICML 2021, arXiv 2006.04647). Batch norms
    take the batch's statistics, as in the authors' code.

    Raises:
        PrecutError: fewer than two inputs, or a network without activations.
    """
    if len(inputs) < 2:
        raise PrecutError(f"naswot compares inputs with each other: pass at least 2; got {len(inputs)}")
    copied = with_batch_statistics(model, inputs)
    graph = capture(copied, inputs)
    kernel = torch.zeros(len(inputs), len(inputs), dtype=torch.float64)
    switches = [node for node in graph.nodes if node.op in _SWITCHES]
    if not switches:
        raise PrecutError(f"naswot looks at activations such as ReLU; {type(model).__name__} has none")
    with torch.no_grad():
        values = graph.compute(graph.nodes, {graph.inputs[0].id: inputs.clone()})
        for node in switches:
            codes = (values[node.input.id] > 0).flatten(1).double().cpu()
            kernel += codes @ codes.T + (1 - codes) @ (1 - codes).T
    return float(torch.linalg.slogdet(kernel).logabsdet)


def zen(model: nn.Module, inputs: Tensor, generator: torch.Generator, step: float = 0.01, repeats: int = 8) -> float:
    """log E|f(x) - f(x + step e)| + sum over batch norms of log sqrt(mean variance), for Gaussian x, e and weights;
    f are the features before the head (Lin et al., "Zen-NAS", ICCV 2021, arXiv 2102.01063). The network keeps its
    skip connections, which the authors take out. It runs in float64.

    Args:
        inputs: only their shape is used.
    """
    copied = copy.deepcopy(model).double().eval()
    for module in copied.modules():
        if isinstance(module, _BatchNorm):
            module.train()
            module.momentum = 1.0
            module.reset_running_stats()
    layers = [module for module in copied.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))]
    found = []
    for _ in range(repeats):
        with torch.no_grad():
            for layer in layers:
                drawn = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
                layer.weight.copy_(drawn)
                if layer.bias is not None:
                    layer.bias.zero_()
            x, noise = (torch.randn(inputs.shape, generator=generator, dtype=torch.float64) for _ in range(2))
            graph = capture(copied, x, training=None)
            value = _features(graph)
            for norm in (module for module in copied.modules() if isinstance(module, _BatchNorm)):
                norm.reset_running_stats()
            first = graph.compute(graph.nodes, {graph.inputs[0].id: x.clone()})[value]
            second = graph.compute(graph.nodes, {graph.inputs[0].id: x + step * noise})[value]
        change = (first - second).abs().flatten(1).sum(1).mean()
        norms = [module for module in copied.modules() if isinstance(module, _BatchNorm)]
        spreads = [norm.running_var for norm in norms if norm.running_var is not None]
        scale = math.fsum(0.5 * math.log(float(spread.mean()) + 1e-12) for spread in spreads)
        found.append(math.log(max(float(change), 1e-300)) + scale)
    return sum(found) / len(found)


def _features(graph: Graph) -> int:
    """Id of the value that the head (pool, flatten, last linear layer) reads."""
    layers = [node for node in graph.nodes if is_layer(node)]
    if len(layers) < 2:
        raise PrecutError("zen needs a network with features before its last layer; this one has a single layer")
    value = layers[-1].input
    while value.producer is not None and value.producer.op in _HEADS and _one(value.producer):
        value = value.producer.input
    return value.id


def _one(node: Node) -> bool:
    return len(set(node.inputs)) == 1


def zico(model: nn.Module, inputs: Tensor, labels: Tensor, batches: int = 2) -> float:
    """sum over layers of log sum over weights of E|g| / std(g), g the gradients of the cross-entropy on several batches
    (Li et al., "ZiCo", ICLR 2023, arXiv 2301.11300); weights whose gradients do not vary are left out.

    Args:
        inputs, labels: divided into ``batches`` equal parts, in order.

    Raises:
        PrecutError: too few inputs, or labels that do not fit.
    """
    if not isinstance(labels, Tensor):
        raise PrecutError(f"labels must be a tensor; got {type(labels).__name__}")
    if labels.ndim != 1 or len(labels) != len(inputs) or labels.is_floating_point():
        raise PrecutError(
            f"labels must be one whole class number an input, {len(inputs)} here; got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    size = len(inputs) // batches
    if size < 2:
        raise PrecutError(f"zico divides the inputs into {batches} batches of at least 2; got {len(inputs)} inputs")
    copied = copy.deepcopy(model).train()
    for module in copied.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()  # its noise would count as spread
    weights = [parameter for parameter in copied.parameters() if parameter.ndim > 1]
    rows: list[list[Tensor]] = []
    for part in range(batches):
        places = slice(part * size, (part + 1) * size)
        try:
            loss = F.cross_entropy(copied(inputs[places]), labels[places])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise PrecutError(
                f"zico needs a network that gives logits for these inputs, and labels of its classes: {error}"
            ) from error
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        rows.append([torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)])
    score = 0.0
    for gradients_of in zip(*rows, strict=True):
        stacked = torch.stack(gradients_of).double()
        spread = stacked.std(0, unbiased=False)
        varies = spread > 0
        total = float((stacked.abs().mean(0)[varies] / spread[varies]).sum())
        if total > 0:
            score += math.log(total)
    return score
