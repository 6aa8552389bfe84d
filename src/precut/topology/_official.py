"""The published code's measure of isometry, faults included (see ``isometry(official=True)``)."""

from __future__ import annotations

import torch
from torch import Tensor

from precut.errors import PrecutError
from precut.graph import Graph
from precut.topology._layers import is_layer
from precut.topology._segments import Segment, segments
from precut.topology._spectrum import Spectrum

__all__ = ["official_spectra"]


def official_spectra(graph: Graph, x: Tensor) -> list[tuple[Segment, Spectrum]]:
    """One spectrum a layer.

    Raises:
        PrecutError: for a network whose layers are not those of "dense_mlp".
    """
    found = segments(graph)
    linear = all(
        segment.declared and [node.op for node in segment.nodes if is_layer(node)] == ["linear"] for segment in found
    )
    if not linear or any(node.op not in ("linear", "elu") for segment in found for node in segment.nodes):
        raise PrecutError(
            f"official=True is the measure of the published code, which knows the network 'dense_mlp' alone; got "
            f"{type(graph.model).__name__}"
        )
    with torch.no_grad():
        values = graph.compute(graph.nodes, {graph.inputs[0].id: x.clone()})
        spectra = []
        for number, segment in enumerate(found):
            layer = segment.layers[0]
            weight = layer.params["weight"][1].expand(len(x), -1, -1)
            if number == 0:
                weight = _published_derivative(values[layer.output.id]).unsqueeze(2) * weight
            elif number > 1:
                weight = weight * _published_derivative(values[segment.reads.id]).unsqueeze(1)
            sigma = torch.linalg.svdvals(weight).flatten().double()
            mean, square = float(sigma.mean()), float(sigma.square().mean())
            spectra.append((segment, Spectrum(sigma, torch.ones_like(sigma), mean, square, 0.0)))
    return spectra


def _published_derivative(x: Tensor) -> Tensor:
    """What the published code takes for ELU's derivative."""
    return torch.where(x > 0, x.exp(), torch.zeros_like(x))
