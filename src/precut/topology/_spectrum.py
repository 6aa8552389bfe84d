"""Singular values of Jacobians: exact where the smaller side allows, else stochastic Lanczos quadrature with an error.

Quadrature (Golub and Meurant 2010; Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 2017): Lanczos on A = J J^T (or
J^T J, the smaller) from a random vector v gives nodes t_j and weights w_j with v^T f(A) v ~ sum w_j f(t_j). For the square
root Gauss nodes give an upper bound and Gauss-Radau nodes, one fixed at 0, a lower one; the middle is taken, half
the distance is the quadrature's error. What the vectors' randomness adds is estimated from their spread, after the part
that the known mean square explains is taken out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from precut.topology._maps import AutogradMap, Map, ScaledLinear
from precut.topology._stats import student_quantile

__all__ = ["Spectrum", "exact_spectrum", "lanczos_spectrum", "smaller_side"]

_LARGEST_MATRIX = 1 << 24  # elements; larger Jacobians are never stored, only their Gram matrix
_CHUNK = 1 << 22  # elements of vectors that are multiplied at once
_CHECK_EVERY = 8  # Lanczos steps between two looks at the error
_PROBES = 4  # vectors at once
_ORTHOGONAL = 1 << 12  # elements; shorter vectors are orthogonalised against all before them
_SQUARES = 256  # random vectors that estimate a mean square without a closed form


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a batch of Jacobians.

    Attributes:
        values: float64; singular values, or the quadrature's nodes.
        weights: how many singular values each stands for.
        mean, mean_square: over all of them.
        error: of ``mean``: 0 where they are exact.
        steps, probes: of Lanczos; 0 where they are exact.
    """

    values: Tensor
    weights: Tensor
    mean: float
    mean_square: float
    error: float
    steps: int = 0
    probes: int = 0


def smaller_side(map_: Map) -> int:
    """How many singular values one sample's Jacobian has."""
    return min(math.prod(map_.in_shape), math.prod(map_.out_shape))


# ---- exact ---------------------------------------------------------------------------------------------------------


def exact_spectrum(map_: Map, samples: int) -> Spectrum:
    """All singular values."""
    rows, columns = math.prod(map_.out_shape), math.prod(map_.in_shape)
    if isinstance(map_, ScaledLinear):
        at_once = max(1, _CHUNK // (rows * columns))
        parts = [
            ScaledLinear(map_.weight, before, after).matrices()
            for before, after in zip(map_.before.split(at_once), map_.after.split(at_once), strict=True)
        ]
        values = torch.cat([torch.linalg.svdvals(part).flatten() for part in parts])
    elif rows * columns <= _LARGEST_MATRIX:
        values = torch.cat([torch.linalg.svdvals(_matrix(map_.of_sample(n))) for n in range(samples)])
    else:
        values = torch.cat([_from_gram(map_.of_sample(n)) for n in range(samples)])
    values = values.double()
    weights = torch.ones_like(values)
    return Spectrum(values, weights, float(values.mean()), float(values.square().mean()), 0.0)


def _units(map_: Map, wide: bool) -> list[Tensor]:
    """The unit vectors of the smaller side, some at a time, each (P, 1, *shape)."""
    shape = map_.out_shape if wide else map_.in_shape
    size = math.prod(shape)
    at_once = max(1, min(size, _CHUNK // max(math.prod(map_.in_shape), math.prod(map_.out_shape))))
    like = map_.point if isinstance(map_, AutogradMap) else map_.weight
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return [part.reshape(len(part), 1, *shape) for part in eye.split(at_once)]


def _matrix(map_: Map) -> Tensor:
    """One sample's Jacobian, or its transpose: (smaller side, larger side)."""
    wide = math.prod(map_.out_shape) <= math.prod(map_.in_shape)
    product = map_.transposed if wide else map_.forward
    return torch.cat([product(part).flatten(1) for part in _units(map_, wide)])


def _from_gram(map_: Map) -> Tensor:
    """By the eigenvalues of the smaller Gram matrix. Values near 0 are right to about 1e-8 of the largest one; where the
    products themselves are in float32 (automatic differentiation), to 5e-4 of it."""
    if not isinstance(map_, AutogradMap):
        map_ = map_.double()
    wide = math.prod(map_.out_shape) <= math.prod(map_.in_shape)
    rows = [_gram(map_, part, wide).flatten(1).double() for part in _units(map_, wide)]
    gram = torch.cat(rows)
    return torch.linalg.eigvalsh((gram + gram.T) / 2).clamp(min=0).sqrt()


def _gram(map_: Map, vectors: Tensor, wide: bool) -> Tensor:
    """J J^T v, or J^T J v."""
    return map_.forward(map_.transposed(vectors)) if wide else map_.transposed(map_.forward(vectors))


# ---- stochastic Lanczos quadrature ---------------------------------------------------------------------------------


def lanczos_spectrum(
    map_: Map, samples: int, generator: torch.Generator, tolerance: float, max_steps: int, max_probes: int
) -> Spectrum:
    """The spectrum of all samples together, by random vectors that span the batch.

    Args:
        tolerance: relative error of the mean at which it stops.
        max_steps, max_probes: where it stops anyway; the error that is stated is then larger.
    """
    wide = math.prod(map_.out_shape) <= math.prod(map_.in_shape)
    shape = map_.out_shape if wide else map_.in_shape
    size = samples * math.prod(shape)
    known = _mean_square(map_, samples, shape, wide, size, generator)
    runs: list[_Run] = []
    while True:
        runs += _lanczos(map_, samples, shape, wide, generator, tolerance, min(max_steps, size))
        mean, square, bracket, noise = _estimate(runs, *known)
        # More vectors make the noise smaller, not the distance between the bounds.
        if bracket + noise <= tolerance * mean or noise <= bracket / 4 or len(runs) >= max_probes or mean == 0:
            break
    error = bracket + noise
    nodes = torch.cat([run.nodes for run in runs]).clamp(min=0).sqrt()
    weights = torch.cat([run.weights for run in runs]) * (size / len(runs))
    steps = max(len(run.nodes) for run in runs)
    return Spectrum(nodes, weights, mean, square, error, steps, len(runs))


@dataclass
class _Run:
    """One vector's quadrature of A: nodes and weights (sum 1), bounds of the mean root, and what rounding may do to it
    near 0."""

    nodes: Tensor
    weights: Tensor
    low: float
    high: float
    rounding: float


def _lanczos(
    map_: Map,
    samples: int,
    shape: tuple[int, ...],
    wide: bool,
    generator: torch.Generator,
    tolerance: float,
    max_steps: int,
) -> list[_Run]:
    """Some vectors at once, each with its own recurrence.

    Short vectors, whose space can be exhausted, are orthogonalised against all before them. Long ones need not be: without
    that, Lanczos finds some nodes twice, but the quadrature's sums stay right (Golub and Strakos 1994), and memory does
    not grow with the steps.
    """
    whole = samples * math.prod(shape) <= _ORTHOGONAL
    vector = _signs(map_, samples, shape, generator)
    vector /= vector.norm(dim=1, keepdim=True)
    basis = [vector]
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    runs: list[_Run] = []
    for step in range(1, max_steps + 1):
        product = _gram(map_, basis[-1].reshape(_PROBES, samples, *shape), wide).reshape(_PROBES, -1)
        alphas.append((product.double() * basis[-1].double()).sum(1))
        if whole:
            for _ in range(2):  # once loses what rounding lets back in
                for old in basis:
                    product = product - (product * old).sum(1, keepdim=True) * old
        else:
            product = product - alphas[-1].to(product.dtype)[:, None] * basis[-1]
            if len(basis) > 1:
                product = product - betas[-1].to(product.dtype)[:, None] * basis[-2]
        betas.append(product.double().norm(dim=1))
        scale = torch.stack(alphas).abs().amax(0).clamp(min=1e-300)
        exhausted = bool((betas[-1] <= 1e-6 * scale).all())
        if exhausted or step == max_steps or step % _CHECK_EVERY == 0:
            runs = _quadratures(torch.stack(alphas, 1), torch.stack(betas, 1), torch.finfo(vector.dtype).eps)
            if exhausted or all(run.high - run.low <= tolerance * run.high for run in runs):
                break
        basis.append(product / product.norm(dim=1, keepdim=True).clamp(min=1e-30))
        if not whole:
            del basis[:-2]
    return runs


def _quadratures(alphas: Tensor, betas: Tensor, precision: float) -> list[_Run]:
    runs = []
    for diagonal, beside in zip(alphas.cpu(), betas.cpu(), strict=True):
        count = len(diagonal)
        scale = float(diagonal.abs().max())
        small = torch.nonzero(beside <= 1e-6 * max(scale, 1e-300)).flatten()
        if len(small):  # this vector's space is exhausted: what follows is rounding
            count = int(small[0]) + 1
        gauss = torch.diag(diagonal[:count]) + _beside(beside[: count - 1])
        nodes, vectors = torch.linalg.eigh(gauss)
        weights = vectors[0].square()
        floor = 8 * precision * float(nodes.abs().max())  # below this a node is rounding
        rounding = float(weights[nodes < floor].sum()) * math.sqrt(floor)
        nodes = torch.where(nodes < floor, torch.zeros_like(nodes), nodes)
        high = float((weights * nodes.clamp(min=0).sqrt()).sum())
        low = high
        if not len(small):
            low = min(high, _radau(gauss, float(beside[count - 1])))
        runs.append(_Run(nodes, weights, low, high, rounding))
    return runs


def _beside(values: Tensor) -> Tensor:
    return torch.diag(values, 1) + torch.diag(values, -1)


def _radau(gauss: Tensor, beta: float) -> float:
    """The mean root by Gauss-Radau nodes with one at 0 (Golub 1973)."""
    count = len(gauss)
    last = torch.zeros(count, dtype=gauss.dtype)
    last[-1] = beta * beta
    shift = torch.linalg.lstsq(gauss, last.unsqueeze(1), driver="gelsd").solution[-1, 0]
    radau = torch.zeros(count + 1, count + 1, dtype=gauss.dtype)
    radau[:count, :count] = gauss
    radau[count, count - 1] = radau[count - 1, count] = beta
    radau[count, count] = shift
    nodes, vectors = torch.linalg.eigh(radau)
    return float((vectors[0].square() * nodes.clamp(min=0).sqrt()).sum())


def _mean_square(
    map_: Map, samples: int, shape: tuple[int, ...], wide: bool, size: int, generator: torch.Generator
) -> tuple[float, float]:
    """(mean square of the singular values, its standard error): in closed form, else by random vectors, of which each
    costs one product only."""
    exact = map_.square()
    if exact is not None:
        return float(exact.double().sum()) / size, 0.0
    product = map_.transposed if wide else map_.forward
    found = []
    for _ in range(_SQUARES // _PROBES):
        made = product(_signs(map_, samples, shape, generator).reshape(_PROBES, samples, *shape))
        found.append(made.flatten(1).double().square().sum(1) / size)
    values = torch.cat(found)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _signs(map_: Map, samples: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random vectors of 1 and -1, (probes, samples x elements)."""
    like = map_.point if isinstance(map_, AutogradMap) else map_.weight
    signs = torch.randint(0, 2, (_PROBES, samples * math.prod(shape)), generator=generator)
    return (2.0 * signs - 1).to(like.device, like.dtype)


def _estimate(runs: list[_Run], known: float, known_error: float) -> tuple[float, float, float, float]:
    """(mean, mean square, half the distance of the bounds, 95 % of the vectors' noise) of the singular values.

    A random vector weighs the spectrum by chance. The best straight line of the root over the spectrum takes away what
    the known mean square explains of that.
    """
    bracket = sum((run.high - run.low) / 2 + run.rounding for run in runs) / len(runs)
    nodes = torch.cat([run.nodes for run in runs])
    weights = torch.cat([run.weights for run in runs]) / len(runs)
    centred = nodes - (weights * nodes).sum()
    spread = float((weights * centred.square()).sum())
    slope = float((weights * centred * nodes.clamp(min=0).sqrt()).sum()) / spread if spread > 0 else 0.0
    squares = torch.stack([(run.weights * run.nodes).sum() for run in runs])
    middles = torch.tensor([(run.low + run.high) / 2 for run in runs], dtype=torch.float64) - slope * (squares - known)
    standard = math.hypot(float(middles.std()) / math.sqrt(len(runs)), slope * known_error)
    return float(middles.mean()), known, bracket, student_quantile(0.975, len(runs) - 1) * standard
