"""What isometry would be if Jacobians were Gaussian."""

from __future__ import annotations

import math

import torch

from precut.errors import real, whole

__all__ = ["gaussian_isometry"]


def gaussian_isometry(width: int, mass: float, draws: int = 200, seed: int = 0) -> tuple[float, float, float]:
    """(mean singular value, lower bound, upper bound) of width x (width + mass // 2) matrices of standard normals: the
    model that links NN-Mass and isometry (Bhardwaj et al. 2021), by which the mean grows with mass and does not know
    depth. The mean is that of ``draws`` matrices; the bounds, for the expected least and largest singular value, are
    sqrt(columns) -+ sqrt(width) (Davidson and Szarek 2001).

    Args:
        width: rows.
        mass: NN-Mass of the cell.
        draws: matrices.
        seed: of their generator.
    """
    width = whole("width", width)
    mass = real("mass", mass, 0, finite=True)
    columns = width + int(mass / 2)
    generator = torch.Generator().manual_seed(seed)
    shape = (whole("draws", draws), width, columns)
    mean = torch.linalg.svdvals(torch.randn(shape, generator=generator, dtype=torch.float64)).mean()
    return float(mean), math.sqrt(columns) - math.sqrt(width), math.sqrt(columns) + math.sqrt(width)
