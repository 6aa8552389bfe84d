"""How much flows through the linearised network: one number for a network, which no depth overflows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from precut.graph import Graph, capture
from precut.pruning._linear import Linear

__all__ = ["log_flow"]


def log_flow(model: nn.Module | Graph, example_inputs: Any = None) -> float:
    """The natural logarithm of SynFlow's R, the sum of the outputs of the linearised network on ones (Tanaka et al.,
    NeurIPS 2020, arXiv 2006.05467). Flow is conserved: the scores of the layers that every path passes sum to R.

    Args:
        model: a module, or its captured graph (then without ``example_inputs``).

    Returns:
        -inf where nothing flows.
    """
    graph = model if isinstance(model, Graph) else capture(model, example_inputs)
    with torch.no_grad():
        flow = Linear(graph, {}).run()
    total = float(flow.tensor)
    return math.log(total) + flow.exponent * math.log(2) if total > 0 else -math.inf
