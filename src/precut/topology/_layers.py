"""What counts as a layer, and a few questions about nodes."""

from __future__ import annotations

import math

from torch import Tensor

from precut.errors import PrecutError
from precut.graph import Graph, Node, Value

__all__ = [
    "ELEMENTWISE",
    "check_no_cycle",
    "is_depthwise",
    "is_gate",
    "is_layer",
    "is_plain",
    "is_pointwise",
    "reads",
    "weight_of",
]

# Operations whose result at one place depends on nothing but the input there (batch norm in eval mode).
ELEMENTWISE = frozenset(
    ("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish",
     "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign", "clamp", "batch_norm", "dropout", "dropout2d",
     "identity", "contiguous", "clone", "neg", "abs", "exp", "square", "sin", "cos")
)  # fmt: skip


def is_layer(node: Node) -> bool:
    """Whether a node is a convolution (transposed ones too) or a linear layer."""
    return node.op == "linear" or node.op.startswith("conv")


def reads(node: Node) -> int:
    """Channels that a layer reads."""
    shape = node.dense_shape
    if shape is None:  # a weight that was computed
        return node.input.shape[-1 if node.op == "linear" else 1]
    if node.op.startswith("conv_transpose"):
        return shape[0]
    return shape[1] * int(node.attrs.get("groups", 1))


def is_depthwise(node: Node) -> bool:
    """Whether every channel is convolved by itself."""
    return node.op.startswith("conv") and reads(node) > 1 and node.attrs.get("groups", 1) == reads(node)


def is_pointwise(node: Node) -> bool:
    """Whether a layer mixes channels at one place only."""
    return node.op == "linear" or (node.dense_shape is not None and math.prod(node.dense_shape[2:]) == 1)


def is_gate(value: Value, node: Node) -> bool:
    """Whether an operand is smaller than the node's result, as gates and biases are."""
    return math.prod(value.shape) < math.prod(node.output.shape)


def is_plain(node: Node) -> bool:
    """Whether a layer is W x + b as F.linear on vectors, or a zero-padded F.conv2d, has it."""
    if node.op == "linear":
        return len(node.input.shape) == 2
    mode = getattr(node.module, "padding_mode", "zeros")
    return node.op == "conv2d" and mode == "zeros" and not isinstance(node.attrs.get("padding"), str)


def weight_of(node: Node) -> Tensor | None:
    """A layer's dense weight; None where it was computed on the way."""
    if node.module is not None and hasattr(node.module, "dense_weight"):
        return node.module.dense_weight().detach()  # type: ignore[operator]
    held = node.params.get("weight")
    if held is None or math.prod(held[1].shape) != math.prod(node.dense_shape or ()):
        return None
    return held[1].detach()


def check_no_cycle(graph: Graph) -> None:
    """A layer may not read what it made itself.

    Raises:
        PrecutError: names the layer.
    """
    passed: dict[int, frozenset[str]] = {value.id: frozenset() for value in graph.inputs}
    for node in graph.nodes:
        before: frozenset[str] = frozenset().union(*(passed[value.id] for value in node.inputs))
        weight = node.params["weight"][0] if is_layer(node) and "weight" in node.params else None
        if weight is not None and weight in before:
            raise PrecutError(
                f"layer {weight.rpartition('.')[0]!r} reads what it made itself ({node.where}): NN-Mass and isometry "
                "are of networks that pass each layer once; give every step a layer of its own"
            )
        after = before if weight is None else before | {weight}
        for value in node.outputs:
            passed[value.id] = after
