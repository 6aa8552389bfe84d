"""What networks are ranked by, in one table: a metric is a function from a Probe to a number, and one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from precut._registry import Registry
from precut.errors import PrecutError
from precut.graph import Graph, capture
from precut.measure import Summary, summary
from precut.pruning import log_flow
from precut.topology._isometry import isometry
from precut.topology._mass import NNMass, count_cells, of_cells
from precut.topology._proxies import naswot, zen, zico

__all__ = ["METRICS", "Metric", "Probe"]


class Probe:
    """A network with what metrics look at it by.

    Attributes:
        model: the network, which no metric changes.
        inputs: (N, ...) a batch.
        labels: (N,) their classes, or None.
        seed: of what a metric draws.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor | None, seed: int) -> None:
        self.model, self.inputs, self.labels, self.seed = model, inputs, labels, seed

    @cached_property
    def graph(self) -> Graph:
        """The network captured on one input."""
        return capture(self.model, self.inputs[:1])

    @cached_property
    def mass(self) -> NNMass:
        """NN-Mass; 0 for a network without cells."""
        return of_cells(count_cells(self.graph), type(self.model).__name__)

    @cached_property
    def counts(self) -> Summary:
        """Parameters and multiply-adds."""
        return summary(self.model, self.inputs[:1])

    def generator(self) -> torch.Generator:
        """A new generator of the probe's seed."""
        return torch.Generator().manual_seed(self.seed)


Metric = Callable[[Probe], float]
METRICS: Registry[Metric] = Registry("metric", "precut.topology.METRICS.names()")


@METRICS.register("params")
def _params(probe: Probe) -> float:
    """Parameters."""
    return float(probe.counts.params)


@METRICS.register("macs")
def _macs(probe: Probe) -> float:
    """Multiply-adds of one input."""
    return float(probe.counts.macs)


@METRICS.register("nn_mass")
def _nn_mass(probe: Probe) -> float:
    """NN-Mass; 0 for a network without skip connections."""
    return probe.mass.mass


@METRICS.register("degree")
def _degree(probe: Probe) -> float:
    """Mean number of channels that a channel of the cells reads: mass's companion that grows with width."""
    return probe.mass.degree


@METRICS.register("density")
def _density(probe: Probe) -> float:
    """Mean density of the cells."""
    densities = probe.mass.density
    return sum(densities) / len(densities) if densities else 0.0


@METRICS.register("isometry")
def _isometry(probe: Probe) -> float:
    """Mean singular value of the layers' Jacobians, batch norms set by the batch."""
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in probe.model.modules())
    return isometry(
        probe.model, probe.inputs, batch_norm="batch" if norms else "running", tolerance=0.02, seed=probe.seed
    ).mean


@METRICS.register("synflow")
def _synflow(probe: Probe) -> float:
    """Logarithm of SynFlow's total flow (Tanaka et al. 2020; as a proxy: Abdelfattah et al., ICLR 2021)."""
    return log_flow(probe.graph)


@METRICS.register("naswot")
def _naswot(probe: Probe) -> float:
    """NASWOT: how differently the activations switch on different inputs (Mellor et al., ICML 2021)."""
    return naswot(probe.model, probe.inputs)


@METRICS.register("zen")
def _zen(probe: Probe) -> float:
    """Zen-score: how much the features of Gaussian inputs change (Lin et al., ICCV 2021)."""
    return zen(probe.model, probe.inputs, probe.generator())


@METRICS.register("zico")
def _zico(probe: Probe) -> float:
    """ZiCo: gradients' mean over their spread between batches (Li et al., ICLR 2023); needs labels."""
    if probe.labels is None:
        raise PrecutError("metric 'zico' looks at gradients of a loss: pass labels=, one class an input")
    return zico(probe.model, probe.inputs, probe.labels)
