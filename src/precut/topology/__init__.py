"""NN-Mass, isometry, and networks designed at initialisation."""

from precut.topology._candidate import Candidate
from precut.topology._cell import Cell
from precut.topology._closed_form import (
    basic_block_mass,
    bottleneck_mass,
    cell_degree,
    cell_density,
    cell_links,
    cell_mass,
    inverted_residual_mass,
)
from precut.topology._design import Design, design
from precut.topology._fit import MassLine, fit
from precut.topology._isometry import Isometry, IsometryRow, isometry
from precut.topology._mass import NNMass, nn_mass
from precut.topology._metrics import METRICS, Metric, Probe
from precut.topology._rank import Agreement, Ranking, rank
from precut.topology._theory import gaussian_isometry

__all__ = [
    "METRICS",
    "Agreement",
    "Candidate",
    "Cell",
    "Design",
    "Isometry",
    "IsometryRow",
    "MassLine",
    "Metric",
    "NNMass",
    "Probe",
    "Ranking",
    "basic_block_mass",
    "bottleneck_mass",
    "cell_degree",
    "cell_density",
    "cell_links",
    "cell_mass",
    "design",
    "fit",
    "gaussian_isometry",
    "inverted_residual_mass",
    "isometry",
    "nn_mass",
    "rank",
]
