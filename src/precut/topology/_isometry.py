"""Layer-wise dynamical isometry: how near the singular values of each layer's Jacobian are to each other and to 1."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from precut.errors import PrecutError, real, whole
from precut.graph import Graph, capture, keeping_modes
from precut.report import Column, Table, count
from precut.topology._layers import check_no_cycle
from precut.topology._maps import make_map
from precut.topology._official import official_spectra
from precut.topology._segments import Segment, segments
from precut.topology._spectrum import Spectrum, exact_spectrum, lanczos_spectrum, smaller_side

__all__ = ["Isometry", "IsometryRow", "isometry", "with_batch_statistics"]

EXACT_SIDE = 2048


@dataclass(frozen=True)
class IsometryRow:
    """One map: a layer, or a block with the addition that ends it.

    Attributes:
        name: of the layer or the addition.
        rows, columns: of one sample's Jacobian.
        count: singular values, over all samples.
        method: "exact" or "lanczos".
        mean, mean_square: of the singular values.
        error: of ``mean``; 0 where exact.
    """

    name: str
    rows: int
    columns: int
    count: int
    method: str
    mean: float
    mean_square: float
    error: float


@dataclass(frozen=True)
class Isometry:
    """Singular values of all layers' Jacobians; ``float()`` is their mean, ``str()`` a table of layers.

    Attributes:
        mean: of all singular values, of all layers and samples together.
        std: their standard deviation.
        error: of ``mean``: 0 where all are exact; else the quadrature's bound and two standard errors.
        values: float64: the singular values; for layers that are not exact the quadrature's nodes.
        weights: how many singular values each of ``values`` stands for: 1 where they are exact.
        layers: one row a map, in execution order.
        official: whether it is the published code's measure, faults included.
    """

    mean: float
    std: float
    error: float
    values: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)
    layers: tuple[IsometryRow, ...] = field(repr=False)
    official: bool = False

    def __float__(self) -> float:
        return self.mean

    def table(self) -> Table:
        """One row for each map."""
        columns = [
            Column("name", "layer", align="left"),
            Column("rows", format=count, align="right"),
            Column("columns", format=count, align="right"),
            Column("count", "values", count, "right"),
            Column("method", align="left"),
            Column("mean", format=".5f", align="right"),
            Column("mean_square", "mean square", ".5f", "right"),
            Column("error", "±", ".1g", "right"),
        ]
        title = f"mean singular value {self.mean:.5f} ± {self.error:.1g}, standard deviation {self.std:.5f}"
        if self.official:
            title += " (the published code's derivative)"
        return Table([asdict(row) for row in self.layers], columns, title=title)

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain data, without the single values."""
        keys = ("mean", "std", "error", "official")
        return {**{key: getattr(self, key) for key in keys}, "layers": [asdict(row) for row in self.layers]}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def isometry(
    model: nn.Module,
    x: Tensor,
    official: bool = False,
    *,
    batch_norm: str = "running",
    exact_side: int = EXACT_SIDE,
    tolerance: float = 0.01,
    max_steps: int = 96,
    max_probes: int = 32,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Isometry:
    """The singular values of each layer's input-output Jacobian at ``x``, in eval mode (layer-wise dynamical isometry,
    after Lee et al., ICLR 2020, arXiv 1906.06307, and Bhardwaj et al., CVPR 2021, arXiv 1910.00780).

    A layer's input is all that it reads, links included; what lies between two layers belongs to one of them. A block
    that ends in an addition is one map, its skip included. The model is not changed.

    Args:
        model: any module whose layers lie one behind the other but for links (concatenations, additions).
        x: (N, ...) inputs; N = 1 is enough for large maps.
        official: the measure of the published code, for networks "dense_mlp" only. It takes exp(x) where x > 0 and 0
            elsewhere for ELU's derivative (right: 1 and exp(x)), and has it in the last layer, which has no ELU.
        batch_norm: "running" takes batch norms as they are (a fresh one divides by 1); "batch" gives them the mean and
            variance of ``x`` first.
        exact_side: maps whose smaller side is at most this are decomposed exactly.
        tolerance: relative error of the mean at which the quadrature of the others stops.
        max_steps, max_probes: where it stops anyway.
        seed: of its vectors.
        progress: called with a line for each layer.

    Raises:
        PrecutError: for a model that passes a layer twice, has no layer, or a wrong ``x``; ``official=True`` for
            another network than "dense_mlp".
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x) or not x.is_floating_point():
        shown = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise PrecutError(f"isometry takes a batch of floating-point inputs (N, ...); got {shown}")
    if not bool(torch.isfinite(x).all()):
        raise PrecutError("isometry takes finite inputs; there is NaN or infinity in x")
    if batch_norm not in ("running", "batch"):
        raise PrecutError(f"batch_norm must be 'running' or 'batch'; got {batch_norm!r}")
    whole("exact_side", exact_side, 0)
    whole("max_steps", max_steps)
    whole("max_probes", max_probes)
    whole("seed", seed, 0)
    real("tolerance", tolerance, above=0, below=1, what="share")
    if batch_norm == "batch":
        model = with_batch_statistics(model, x)
    graph = capture(model, x)
    check_no_cycle(graph)
    for node in graph.nodes:
        if node.op == "batch_norm" and "running_mean" not in node.params:
            raise PrecutError(
                f"{node.where} has no running statistics: it ties the batch's images together, and a layer's Jacobian is "
                "of one; give it track_running_stats=True"
            )
    if official:
        found = official_spectra(graph, x)
    else:
        generator = torch.Generator().manual_seed(seed)
        found = []
        with keeping_modes(graph.model, False):
            for segment, point in _points(graph, x):
                spectrum = _spectrum(segment, graph, point, generator, exact_side, tolerance, max_steps, max_probes)
                found.append((segment, spectrum))
                if progress is not None:
                    progress(f"{segment.name}: {spectrum.mean:.4f} ± {spectrum.error:.1g}")
    if not found:
        raise PrecutError(f"{type(graph.model).__name__} has no convolution and no linear layer: nothing to look at")
    return _together(found, official)


def with_batch_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy whose batch norms hold the mean and variance of ``x``, each computed with those before it in place."""
    model = copy.deepcopy(model).eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        with torch.no_grad():
            model(x)
    except ValueError as error:
        raise PrecutError(f"batch_norm='batch' needs more inputs: {error}") from None
    except (RuntimeError, TypeError, IndexError) as error:
        raise PrecutError(
            f"{type(model).__name__} cannot run on inputs of shape {tuple(x.shape)} {x.dtype}: {error}"
        ) from error
    return model.eval()


def _points(graph: Graph, x: Tensor) -> list[tuple[Segment, Tensor]]:
    """Every segment with what it reads when the network runs on ``x``; nothing else is kept longer than needed."""
    found = segments(graph)
    kept = {segment.reads.id for segment in found}
    last = {value.id: node.index for node in graph.nodes for value in node.inputs}
    values = {graph.inputs[0].id: x.clone()}
    with torch.no_grad():
        for node in graph.nodes:
            values = graph.compute((node,), values)
            for number in [value.id for value in (*node.inputs, *node.outputs)]:
                if number in values and number not in kept and last.get(number, -1) <= node.index:
                    del values[number]
    return [(segment, values[segment.reads.id]) for segment in found]


def _spectrum(
    segment: Segment,
    graph: Graph,
    point: Tensor,
    generator: torch.Generator,
    exact_side: int,
    tolerance: float,
    max_steps: int,
    max_probes: int,
) -> Spectrum:
    map_ = make_map(segment, graph, point)
    if smaller_side(map_) <= exact_side:
        return exact_spectrum(map_, len(point))
    return lanczos_spectrum(map_, len(point), generator, tolerance, max_steps, max_probes)


def _together(found: list[tuple[Segment, Spectrum]], official: bool) -> Isometry:
    """All layers' values in one."""
    rows = []
    for segment, spectrum in found:
        shapes = segment.makes.shape[1:], segment.reads.shape[1:]
        rows.append(
            IsometryRow(
                segment.name,
                math.prod(shapes[0]),
                math.prod(shapes[1]),
                round(float(spectrum.weights.sum())),
                "lanczos" if spectrum.steps else "exact",
                spectrum.mean,
                spectrum.mean_square,
                spectrum.error,
            )
        )
    total = sum(row.count for row in rows)
    mean = sum(row.mean * row.count for row in rows) / total
    square = sum(row.mean_square * row.count for row in rows) / total
    variance = max(0.0, square - mean * mean) * total / max(1, total - 1)
    # Layers err independently of each other, but for the brackets, which add up: their sum is the safe statement.
    error = sum(row.error * row.count for row in rows) / total
    return Isometry(
        mean,
        math.sqrt(variance),
        error,
        torch.cat([spectrum.values for _, spectrum in found]),
        torch.cat([spectrum.weights for _, spectrum in found]),
        tuple(rows),
        official,
    )
