"""Accuracy as a line over NN-Mass, with what it is worth beside a line over parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from precut.errors import PrecutError, real
from precut.report import Table, lines_plot
from precut.topology._mass import NNMass, nn_mass
from precut.topology._stats import bootstrap_interval, student_quantile

__all__ = ["MassLine", "fit"]

Floats = npt.NDArray[np.float64]
_LEAST = 3  # points


def _r_squared(x: Floats, y: Floats) -> float:
    """Share of the variance that a straight line explains; nan where one list is constant."""
    a, b = x - x.mean(), y - y.mean()
    scale = float(a @ a) * float(b @ b)
    return float(a @ b) ** 2 / scale if scale > 0 else math.nan


def _left_out(x: Floats, y: Floats) -> float:
    """R-squared of predictions of each point by the line through the others: below 0 where the mean does better."""
    centred = x - x.mean()
    total = float(centred @ centred)
    if total <= 0:
        return math.nan
    slope = float(centred @ (y - y.mean())) / total
    residuals = y - y.mean() - slope * centred
    leverage = 1 / len(x) + centred**2 / total
    if (leverage >= 1 - 1e-12).any():
        return math.nan
    around = len(x) / (len(x) - 1) * (y - y.mean())  # residuals of the mean of the others
    rest = float(around @ around)
    return 1 - float(((residuals / (1 - leverage)) ** 2).sum()) / rest if rest > 0 else math.nan


@dataclass(frozen=True)
class MassLine:
    """accuracy = intercept + slope x f(mass), by least squares; ``str()`` says what it is worth.

    Attributes:
        slope, intercept: of the line.
        scale: "linear" (f is the mass) or "log" (its natural logarithm).
        masses, accuracies: what it was fitted to.
        r_squared: share of the accuracies' variance that it explains.
        predictive: the same for points that were left out of the fit: the honest one; below 0 is worse than the mean.
        residual: standard deviation of accuracies around the line.
        params_r_squared, params_predictive: of a line over the logarithm of the parameters; None without parameters.
        difference: 95 % bootstrap interval of r_squared - params_r_squared; None without parameters or below 4 points.
    """

    slope: float
    intercept: float
    scale: str
    masses: tuple[float, ...]
    accuracies: tuple[float, ...]
    r_squared: float
    predictive: float
    residual: float
    params_r_squared: float | None = None
    params_predictive: float | None = None
    difference: tuple[float, float] | None = None

    @property
    def n(self) -> int:
        """How many models it was fitted to."""
        return len(self.masses)

    @property
    def explains_more_than_params(self) -> bool | None:
        """Whether mass explains more than the parameter count does: True only if the whole interval says so; None
        without parameters."""
        if self.params_r_squared is None:
            return None
        return self.difference is not None and self.difference[0] > 0

    def _scaled(self, mass: Any) -> Floats:
        x = np.asarray(mass, np.float64)
        if self.scale == "log":
            if (x <= 0).any():
                raise PrecutError("a line over log(mass) needs masses above 0")
            return np.log(x)
        return x

    def predict(self, mass: float, level: float = 0.95, of: str = "mean") -> tuple[float, float, float]:
        """(accuracy, low, high) at a mass.

        Args:
            level: of the band.
            of: "mean": where the line is; "model": where one more trained model would lie.
        """
        if of not in ("mean", "model"):
            raise PrecutError(f"of must be 'mean' or 'model'; got {of!r}")
        if not 0 < level < 1:
            raise PrecutError(f"level must be between 0 and 1; got {level!r}")
        x = self._scaled(self.masses)
        at = float(self._scaled(real("mass", mass)))
        total = float(((x - x.mean()) ** 2).sum())
        spread = 1 / self.n + (at - float(x.mean())) ** 2 / total + (of == "model")
        half = student_quantile((1 + level) / 2, self.n - 2) * self.residual * math.sqrt(spread)
        middle = self.intercept + self.slope * at
        return middle, middle - half, middle + half

    def mass_at(self, accuracy: float) -> float:
        """The mass at which the line reaches an accuracy.

        Raises:
            PrecutError: the line does not rise, or the mass would be more than half a range beyond the fitted ones.
        """
        if not self.slope > 0:
            raise PrecutError(f"the fitted line does not rise with mass (slope {self.slope:.3g}): it predicts no mass")
        accuracy = real("accuracy", accuracy)
        at = (accuracy - self.intercept) / self.slope
        x = self._scaled(self.masses)
        low, high = float(x.min()), float(x.max())
        margin = (high - low) / 2
        if not low - margin <= at <= high + margin:
            reach = [self.intercept + self.slope * end for end in (low - margin, high + margin)]
            raise PrecutError(
                f"accuracy {accuracy:.4g} lies too far outside what the line was fitted to; it may be asked from "
                f"{reach[0]:.4g} to {reach[1]:.4g}"
            )
        mass = math.exp(at) if self.scale == "log" else at
        if mass <= 0:
            raise PrecutError(f"the fitted line reaches accuracy {accuracy:.4g} at no mass above 0")
        return mass

    def verdict(self) -> str:
        """What the fit carries, in words."""
        words = [f"n = {self.n}: R^2 {self.r_squared:.3f}, left-one-out R^2 {self.predictive:.3f}"]
        if self.params_r_squared is not None:
            words.append(f"parameters: R^2 {self.params_r_squared:.3f}, left-one-out {self.params_predictive:.3f}")
            if self.explains_more_than_params:
                words.append("mass explains more than the parameter count")
            else:
                words.append("mass explains no more than the parameter count does, as far as these points tell")
        if self.n < 10:
            words.append("so few points carry no claim")
        return "; ".join(words)

    def table(self) -> Table:
        """The points beside the line."""
        rows = []
        for mass, accuracy in sorted(zip(self.masses, self.accuracies, strict=True)):
            middle, low, high = self.predict(mass)
            rows.append({"mass": mass, "accuracy": accuracy, "line": middle, "low": low, "high": high})
        return Table(rows, title="accuracy over NN-Mass", notes=[self.verdict(), "low, high: 95 % band of the line"])

    def __str__(self) -> str:
        return self.verdict()

    def plot(self, path: str | Path) -> Path:
        """The line with its 95 % band, and the points."""
        low, high = min(self.masses), max(self.masses)
        grid = np.linspace(low, high, 60) if high > low else np.array([low])
        bands = [self.predict(float(mass)) for mass in grid]
        series: dict[str, Sequence[Sequence[float]]] = {
            "line, 95 % band": [grid.tolist(), *([band[k] for band in bands] for k in range(3))]
        }
        for number, (mass, accuracy) in enumerate(zip(self.masses, self.accuracies, strict=True), 1):
            series[f"model {number}"] = [[mass], [accuracy]]
        return lines_plot(series, path, x_label="NN-Mass", y_label="accuracy", title=self.verdict()[:70])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        keys = ("slope", "intercept", "scale", "r_squared", "predictive", "residual", "params_r_squared")
        more = ("params_predictive", "explains_more_than_params", "n")
        plain = {key: getattr(self, key) for key in (*keys, *more)}
        difference = list(self.difference) if self.difference else None
        lists = {"masses": list(self.masses), "accuracies": list(self.accuracies), "difference": difference}
        return {**plain, **lists, "verdict": self.verdict()}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def fit(
    masses: Sequence[float | NNMass | nn.Module] | Floats,
    accuracies: Sequence[float] | Floats,
    params: Sequence[float] | Floats | None = None,
    scale: str = "linear",
    seed: int = 0,
) -> MassLine:
    """A straight line through the accuracies of a few trained models, over their mass.

    Args:
        masses: numbers, or models (then their parameters are counted too).
        accuracies: one a model; of any scale.
        params: parameter counts, for the comparison.
        scale: "linear" or "log" (over the logarithm of the mass).
        seed: of the bootstrap.

    Raises:
        PrecutError: fewer than 3 points, lists of different lengths, equal masses, or numbers that are not finite.
    """
    if scale not in ("linear", "log"):
        raise PrecutError(f"scale must be 'linear' or 'log'; got {scale!r}")
    for name, given in (("masses", masses), ("accuracies", accuracies), ("params", params)):
        if not isinstance(given, (list, tuple, np.ndarray, Mapping, NoneType)) or (given is None and name != "params"):
            raise PrecutError(f"fit takes lists, the masses (or models) and the accuracies; {name} is {given!r:.60}")
    if params is None and len(masses) and all(isinstance(item, nn.Module) for item in masses):
        params = [sum(p.numel() for p in item.parameters()) for item in masses if isinstance(item, nn.Module)]
    if any(isinstance(given, Mapping) for given in (masses, accuracies, params)):
        raise PrecutError("fit takes lists, the masses (or models) and the accuracies in one order; got a dict")
    numbers = [float(nn_mass(item)) if isinstance(item, nn.Module) else real("each mass", item) for item in masses]
    if len(numbers) != len(accuracies) or len(numbers) < _LEAST or (params is not None and len(params) != len(numbers)):
        counts = f"{len(numbers)} masses, {len(accuracies)} accuracies"
        counts += "" if params is None else f", {len(params)} parameter counts"
        raise PrecutError(f"fit needs one accuracy a mass, for at least {_LEAST} models; got {counts}")
    x, y = np.array(numbers), np.array([real("each accuracy", value) for value in accuracies])
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise PrecutError("fit needs finite masses and accuracies")
    if scale == "log":
        if (x <= 0).any():
            raise PrecutError("a line over log(mass) needs masses above 0")
        x = np.log(x)
    centred = x - x.mean()
    total = float(centred @ centred)
    if total <= 1e-18 * max(1.0, float(x @ x)):
        raise PrecutError("fit needs models of different mass; all are equal")
    slope = float(centred @ (y - y.mean())) / total
    intercept = float(y.mean() - slope * x.mean())
    residuals = y - intercept - slope * x
    residual = math.sqrt(float(residuals @ residuals) / (len(x) - 2))
    others: dict[str, Any] = {}
    if params is not None:
        held = np.array([real("each parameter count", value) for value in params])
        if not np.isfinite(held).all() or (held <= 0).any():
            raise PrecutError(f"each parameter count must be a number above 0; got {held.min():g}")
        sizes = np.log(held)
        low, high = bootstrap_interval(lambda a, b, c: _r_squared(a, c) - _r_squared(b, c), x, sizes, y, seed=seed)
        others = {
            "params_r_squared": _r_squared(sizes, y),
            "params_predictive": _left_out(sizes, y),
            "difference": None if math.isnan(low) else (low, high),
        }
    return MassLine(
        slope,
        intercept,
        scale,
        tuple(numbers),
        tuple(y.tolist()),
        _r_squared(x, y),
        _left_out(x, y),
        residual,
        **others,
    )
