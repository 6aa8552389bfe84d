"""Networks side by side by several metrics, and how well each metric's order agrees with their accuracies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precut.errors import PrecutError, unknown, whole
from precut.report import Column, Table
from precut.topology._metrics import METRICS, Probe
from precut.topology._stats import bootstrap_interval, kendall, spearman

__all__ = ["Agreement", "Ranking", "rank"]

BASELINES = ("params", "macs")
_FEW = 10


@dataclass(frozen=True)
class Agreement:
    """How a metric's order agrees with the accuracies' order.

    Attributes:
        metric: its name.
        tau, tau_low, tau_high: Kendall's tau-b with its 95 % bootstrap interval over models.
        rho, rho_low, rho_high: Spearman's rho likewise. Intervals are nan for fewer than 4 models.
        n: how many models.
    """

    metric: str
    tau: float
    tau_low: float
    tau_high: float
    rho: float
    rho_low: float
    rho_high: float
    n: int


@dataclass(frozen=True)
class Ranking:
    """Models by metrics; ``str()`` is the tables.

    Attributes:
        values: metric to {model: number}.
        accuracies: {model: accuracy}; empty if none were given.
        agreements: one a metric; empty without accuracies.
    """

    values: dict[str, dict[str, float]]
    accuracies: dict[str, float]
    agreements: list[Agreement]

    def order(self, metric: str) -> list[str]:
        """The models, highest value first."""
        if metric not in self.values:
            raise unknown("metric of this ranking", metric, self.values)
        return sorted(self.values[metric], key=lambda name: -self.values[metric][name])

    def __getitem__(self, metric: str) -> Agreement:
        """The agreement of one metric."""
        for found in self.agreements:
            if found.metric == metric:
                return found
        raise unknown("metric of this ranking", metric, [found.metric for found in self.agreements])

    def table(self) -> Table:
        """One row for each model."""
        names = next(iter(self.values.values()))
        rows: list[dict[str, Any]] = []
        for name in names:
            row: dict[str, Any] = {"model": name, **{metric: column[name] for metric, column in self.values.items()}}
            if self.accuracies:
                row["accuracy"] = self.accuracies[name]
            rows.append(row)
        columns = [
            Column("model", align="left"),
            *(Column(metric, format=_number, align="right") for metric in self.values),
        ]
        if self.accuracies:
            columns.append(Column("accuracy", format=_number, align="right"))
        return Table(rows, columns, title="untrained networks by metrics", notes=["all metrics are of fresh weights"])

    def agreement_table(self) -> Table:
        """One row for each metric: how its order agrees with the accuracies."""
        columns = [Column("metric", align="left"), *(Column(key, title, ".3f", "right") for key, title in _SHOWN)]
        rows = [{key: _finite(getattr(found, key)) for key in ("metric", *dict(_SHOWN))} for found in self.agreements]
        count = len(self.accuracies)
        notes = [f"n = {count} models; intervals: 95 % bootstrap over models; params and macs are the baselines"]
        if count < _FEW:
            notes.append("so few models carry no claim")
        return Table(rows, columns, title="agreement with accuracy", notes=notes)

    def __str__(self) -> str:
        tables = [str(self.table())]
        if self.agreements:
            tables.append(str(self.agreement_table()))
        return "\n\n".join(tables)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        agreements = [{key: _finite(value) for key, value in vars(found).items()} for found in self.agreements]
        return {"values": self.values, "accuracies": self.accuracies, "agreements": agreements}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


_SHOWN = (
    ("tau", "tau"),
    ("tau_low", "low"),
    ("tau_high", "high"),
    ("rho", "rho"),
    ("rho_low", "low "),
    ("rho_high", "high "),
)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.5g}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rank(
    models: Mapping[str, nn.Module] | Sequence[nn.Module],
    metrics: Sequence[str] = ("nn_mass",),
    accuracies: Mapping[str, float] | Sequence[float] | None = None,
    inputs: Tensor | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Ranking:
    """Ranks untrained networks by metrics, and compares the orders with accuracies that were measured elsewhere.

    Parameters and multiply-adds always stand beside the metrics: proxies often tell less than they do.

    Args:
        models: by name, or in a list (then named by number and class).
        metrics: names of ``METRICS``.
        accuracies: one a model, in the models' order or by name; of any scale.
        inputs: a batch (N, ...) for metrics that look at data; by default 32 Gaussian inputs of the first model's
            shape, where it comes from ``create_model``.
        labels: (N,) classes, for "zico".
        seed: of what metrics draw, and of the bootstrap.
        progress: called with a line for each number.

    Raises:
        PrecutError: unknown metrics, no models, accuracies that do not fit, or inputs that are needed and missing.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    for name in metrics:
        METRICS[name]
    if isinstance(models, nn.Module):
        raise PrecutError(f"rank compares several networks, in a list or by name; got one {type(models).__name__}")
    if not isinstance(models, Mapping):
        models = {f"{number} {type(model).__name__}": model for number, model in enumerate(models, 1)}
    if not models or not all(isinstance(model, nn.Module) for model in models.values()):
        raise PrecutError(f"rank takes nn.Modules, in a list or by name; got {models!r:.80}")
    whole("seed", seed, 0)
    given = _accuracies(models, accuracies)
    batch = _inputs(next(iter(models.values())), inputs, seed)
    names = list(dict.fromkeys((*BASELINES, *metrics)))
    values: dict[str, dict[str, float]] = {name: {} for name in names}
    for model_name, model in models.items():
        probe = Probe(model, batch, labels, seed)
        for name in names:
            values[name][model_name] = METRICS[name](probe)
            if progress is not None:
                progress(f"{model_name}: {name} {_number(values[name][model_name])}")
    agreements = [_agreement(n, list(values[n].values()), list(given.values()), seed) for n in names] if given else []
    return Ranking(values, given, agreements)


def _accuracies(
    models: Mapping[str, nn.Module], accuracies: Mapping[str, float] | Sequence[float] | None
) -> dict[str, float]:
    if accuracies is None:
        return {}
    if isinstance(accuracies, Mapping):
        for name in accuracies:
            if name not in models:
                raise unknown("model in accuracies", name, models)
        missing = [name for name in models if name not in accuracies]
        if missing:
            raise PrecutError(f"accuracies has none for model {missing[0]!r}")
        return {name: _accuracy(name, accuracies[name]) for name in models}
    if isinstance(accuracies, str) or not isinstance(accuracies, Sized):
        raise PrecutError(f"accuracies is one number a model, in a list or by name; got {accuracies!r:.60}")
    if len(accuracies) != len(models):
        raise PrecutError(f"rank got {len(models)} models and {len(accuracies)} accuracies; expected one a model")
    return {name: _accuracy(name, value) for name, value in zip(models, accuracies, strict=True)}


def _accuracy(name: str, given: Any) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise PrecutError(f"the accuracy of model {name!r} must be a finite number; got {given!r:.60}")
    return value


def _inputs(model: nn.Module, inputs: Tensor | None, seed: int) -> Tensor:
    if inputs is not None:
        if not isinstance(inputs, Tensor) or inputs.ndim < 2 or not len(inputs):
            raise PrecutError("inputs must be a batch, a tensor (N, ...)")
        return inputs
    spec: Any = getattr(model, "precut_spec", None)
    if spec is None:
        raise PrecutError(f"{type(model).__name__} is not from create_model: pass inputs=, a batch (N, ...)")
    kwargs = spec["kwargs"]
    features, side = kwargs.get("in_features"), kwargs["input_size"]
    shape = (32, features) if features else (32, kwargs["in_channels"], side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _agreement(metric: str, values: list[float], accuracies: list[float], seed: int) -> Agreement:
    if len(accuracies) < 2:
        nothing = math.nan
        return Agreement(metric, nothing, nothing, nothing, nothing, nothing, nothing, len(accuracies))
    tau = bootstrap_interval(kendall, values, accuracies, seed=seed)
    rho = bootstrap_interval(spearman, values, accuracies, seed=seed)
    return Agreement(metric, kendall(values, accuracies), *tau, spearman(values, accuracies), *rho, len(accuracies))
