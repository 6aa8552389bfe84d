"""Networks of a wanted NN-Mass within budgets, without training and without building them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precut.engine import compile as compile_model
from precut.errors import PrecutError, real, unknown, whole
from precut.graph import Graph
from precut.measure import latency as measure_latency
from precut.models import list_models, model_options
from precut.report import Column, Table, count, duration, lines_plot, si
from precut.topology._candidate import Candidate, Frame
from precut.topology._family_dense import DenseMlps, RandomDenseNets
from precut.topology._family_search import AnyModels, MobileNets
from precut.topology._fit import MassLine
from precut.topology._mass import NNMass, nn_mass

__all__ = ["Design", "design"]

_ORDERS: dict[str, Callable[[Candidate], float]] = {
    "macs": lambda c: c.macs,
    "params": lambda c: c.params,
    "depth": lambda c: c.depth,
    "degree": lambda c: -c.degree,
    "latency": lambda c: math.inf if c.seconds is None else c.seconds,
}
_SHOWN = 20


@dataclass(frozen=True)
class Design:
    """The networks that meet what was asked; ``str()`` is a table.

    Attributes:
        target: the mass that was asked for.
        candidates: in the order that was asked for, best first.
        considered: how many of the mass there were before the budgets.
        unmeasured: how many meet the counted budgets and were not timed.
        conditions: the budgets and the tolerance, in words.
    """

    target: float
    candidates: list[Candidate]
    considered: int
    unmeasured: int
    conditions: str

    @property
    def best(self) -> Candidate:
        """The first candidate."""
        return self.candidates[0]

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def __getitem__(self, index: int) -> Candidate:
        return self.candidates[index]

    def create(self, index: int = 0) -> nn.Module:
        """One of the networks, freshly initialised."""
        return self.candidates[index].create()

    def table(self, most: int | None = _SHOWN) -> Table:
        """The iso-mass family: one row for each candidate, the first ``most``."""
        columns = [
            Column("network", align="left"),
            Column("mass", format=".1f", align="right"),
            Column("degree", format=".1f", align="right"),
            Column("depth", "layers", align="right"),
            Column("params", format=count, align="right"),
            Column("macs", "MACs", si, "right"),
        ]
        rows = []
        timed = any(c.latency is not None for c in self.candidates)
        if timed:
            columns.append(Column("seconds", "measured", duration, "right"))
        for c in self.candidates[:most]:
            row = {key: getattr(c, key) for key in ("mass", "degree", "depth", "params", "macs")}
            row["network"] = f"{c.model} {c.shown()}"
            if timed:
                row["seconds"] = c.seconds
            rows.append(row)
        notes = [f"{len(self.candidates)} of {self.considered} networks of this mass; {self.conditions}; counted"]
        if len(rows) < len(self.candidates):
            notes.append(f"{len(self.candidates) - len(rows)} more are not shown")
        if timed:
            notes.append(f"measured: median of one forward, {next(c.latency for c in self.candidates if c.latency)}")
        if self.unmeasured:
            notes.append(f"{self.unmeasured} more meet the counted budgets and were not timed (measure=)")
        notes.append("mass does not see width where links are few: degree does; compare accuracies at similar degrees")
        return Table(rows, columns, title=f"networks of NN-Mass {self.target:.6g}", notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def plot(self, path: str | Path) -> Path:
        """The family as a picture: for each group (widths) the fewest parameters at each number of layers."""
        series: dict[str, tuple[list[float], list[float]]] = {}
        for group in sorted({c.group for c in self.candidates}):
            fewest: dict[int, int] = {}
            for c in self.candidates:
                if c.group == group:
                    fewest[c.depth] = min(c.params, fewest.get(c.depth, c.params))
            depths = sorted(fewest)
            series[group] = [float(n) for n in depths], [fewest[n] / 1e6 for n in depths]
        title = f"networks of NN-Mass {self.target:.4g}"
        return lines_plot(series, path, x_label="layers", y_label="parameters, millions (counted)", title=title)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        keys = ("target", "considered", "unmeasured", "conditions")
        return {**{key: getattr(self, key) for key in keys}, "candidates": [c.to_dict() for c in self.candidates]}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def design(
    target: float | nn.Module | Graph | NNMass | MassLine,
    family: str | None = None,
    *,
    accuracy: float | None = None,
    tolerance: float = 0.01,
    params: float | None = None,
    macs: float | None = None,
    depth: int | None = None,
    latency: float | None = None,
    order: str = "macs",
    num_classes: int | None = None,
    input_size: int | None = None,
    in_channels: int | None = None,
    search: Mapping[str, Sequence[Any]] | None = None,
    measure: int = 5,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Design:
    """Networks of one mass within budgets: no training, no search by training.

    For "random_densenet" and "dense_mlp" each depth's links follow from the mass in closed form; "mobilenetv2" and any
    other family are searched through and through.

    Args:
        target: the mass: a number, or that of a reference model, or a line fitted to accuracies with ``accuracy``.
        family: name of a model; by default that of the reference model.
        accuracy: with a fitted line, what the network should reach.
        tolerance: how far a mass may be from the target, as a share of it.
        params, macs, depth: budgets, counted: at most so many parameters, multiply-adds of one image, convolutions
            and linear layers.
        latency: budget in seconds of one forward of one image, measured on this machine with ``precut.compile``.
        order: "macs", "params", "depth" (fewest first), "degree" (highest first) or "latency" (shortest first).
        num_classes, input_size, in_channels: of the networks; by default the reference model's, else 10, 32 and 3.
        search: for any other family its arguments and the values to try.
        measure: how many networks to time, in order of the counted costs, where ``latency`` or ``order="latency"`` asks
            for it; what was not timed is left out.
        threads: of the timed networks.
        progress: called with a line for each network that is timed.
        **options: the family's: widths, depthwise, depths, shares, seed ("random_densenet"); width, in_features,
            depths, seed ("dense_mlp"); width_mults, repeats ("mobilenetv2"). By default the reference model's.

    Raises:
        PrecutError: when no network meets the mass or the budgets, with the nearest that there is; wrong arguments.
    """
    if order not in _ORDERS:
        raise unknown("order", order, _ORDERS)
    real("tolerance", tolerance, above=0, below=1, what="share")
    budgets = {"params": params, "macs": macs, "depth": depth, "latency": latency}
    for name, budget in budgets.items():
        if budget is not None:
            real(name, budget, above=0)
    whole("measure", measure)
    mass = _mass_of(target, accuracy)
    spec = _spec_of(target)
    family = family or (spec["model"] if spec else None)
    if family is None:
        raise PrecutError("design needs family=, such as 'random_densenet', 'dense_mlp' or 'mobilenetv2'")
    if family not in list_models():
        raise unknown("family", family, list_models(), "precut.list_models()")
    given: dict[str, Any] = spec["kwargs"] if spec else {}
    frame = Frame(
        *(
            whole(name, value if value is not None else given.get(name, default))
            for name, value, default in (
                ("num_classes", num_classes, 10),
                ("input_size", input_size, 32),
                ("in_channels", in_channels, 3),
            )
        )
    )
    own = dict(given) if spec and spec["model"] == family else {}
    found = list(_candidates(family, frame, mass, tolerance, search, options, own, target))
    return _within(found, mass, tolerance, budgets, order, measure, threads, progress)


def _mass_of(target: Any, accuracy: float | None) -> float:
    if isinstance(target, MassLine):
        if accuracy is None:
            raise PrecutError("design from a fitted line needs accuracy=, what the network should reach")
        return target.mass_at(accuracy)
    if accuracy is not None:
        raise PrecutError("accuracy= needs a fitted line as target: precut.topology.fit(masses, accuracies)")
    if isinstance(target, nn.Module) and _spec_of(target) is None:
        raise PrecutError(
            f"{type(target).__name__} is not from create_model: pass its capture, precut.graph.capture(model, x)"
        )
    if isinstance(target, (nn.Module, Graph)):
        return float(nn_mass(target))
    mass = float(target) if isinstance(target, (int, float, NNMass)) and not isinstance(target, bool) else math.nan
    if not 0 < mass < math.inf:
        raise PrecutError(f"design takes a mass above 0, a model, or a fitted line; got {target!r:.60}")
    return mass


def _spec_of(target: Any) -> dict[str, Any] | None:
    model = target.model if isinstance(target, Graph) else target
    return getattr(model, "precut_spec", None) if isinstance(model, nn.Module) else None


_OPTIONS = {
    "random_densenet": ("widths", "depthwise", "depths", "shares", "seed"),
    "dense_mlp": ("width", "in_features", "depths", "seed"),
    "mobilenetv2": ("width_mults", "repeats"),
}


def _candidates(
    family: str,
    frame: Frame,
    mass: float,
    tolerance: float,
    search: Mapping[str, Sequence[Any]] | None,
    options: dict[str, Any],
    own: dict[str, Any],
    target: Any,
) -> Iterator[Candidate]:
    """The family's networks of this mass; ``own`` are the reference model's arguments if it is of the family."""
    known = _OPTIONS.get(family, ())
    for name in options:
        if name not in known:
            raise unknown(f"option of design for {family!r}", name, known or ("search",))
    if search is not None and not isinstance(search, Mapping):
        raise PrecutError(f"search is a mapping, {{argument: [values to try]}}; got {search!r:.60}")
    if search is not None or family not in _OPTIONS:
        for name in search or {}:
            if name not in ("width_mult", *model_options(family)):
                raise unknown(f"argument of model {family!r}", name, ["width_mult", *model_options(family)])
        return AnyModels(frame, family, search or {}).candidates(mass, tolerance)
    if family == "mobilenetv2":
        return MobileNets(frame, **options).candidates(mass, tolerance)
    kept = {name: own[name] for name in known if own.get(name) is not None}
    if family == "random_densenet" and "widths" not in kept and own:
        kept["widths"] = [cell.width for cell in nn_mass(target).cells]
        kept["widths"] = [round(width) for width in kept["widths"]]
    if family == "random_densenet" and own and "widths" not in options and "shares" not in options:
        cells = nn_mass(target).cells
        kept["shares"] = [cell.mass / mass for cell in cells]
    made: RandomDenseNets | DenseMlps
    made = (RandomDenseNets if family == "random_densenet" else DenseMlps)(frame, **{**kept, **options})
    return (c for c in made.candidates(mass) if abs(c.mass - mass) <= tolerance * mass + 1e-9)


def _within(
    found: list[Candidate],
    mass: float,
    tolerance: float,
    budgets: dict[str, float | None],
    order: str,
    measure: int,
    threads: int | None,
    progress: Callable[[str], None] | None,
) -> Design:
    """Those of ``found`` that keep to the budgets, in order."""
    said = [f"{name} <= {budget:g}" for name, budget in budgets.items() if budget is not None]
    conditions = ", ".join([f"mass within {100 * tolerance:g} %", *said])
    if not found:
        raise PrecutError(
            f"no network of this family has NN-Mass {mass:.6g} ({conditions}): widen the search, allow more depth or "
            "width, or raise tolerance="
        )
    counted = {name: budgets[name] for name in ("params", "macs", "depth")}
    kept = [c for c in found if all(limit is None or getattr(c, name) <= limit for name, limit in counted.items())]
    if not kept:
        least = ", ".join(f"{name} {min(getattr(c, name) for c in found):,}" for name in counted)
        raise PrecutError(f"{len(found)} networks have NN-Mass {mass:.6g}, none within the budgets; the least: {least}")
    timing = budgets["latency"] is not None or order == "latency"
    kept.sort(key=lambda c: (_ORDERS["macs" if order == "latency" else order](c), abs(c.mass - mass), c.params))
    unmeasured = 0
    if timing:
        unmeasured = max(0, len(kept) - measure)
        kept = [_timed(c, threads, progress) for c in kept[:measure]]
        limit = budgets["latency"]
        quick = [c for c in kept if limit is None or (c.seconds or 0.0) <= limit]
        if not quick:
            least = duration(min(c.seconds or 0.0 for c in kept))
            raise PrecutError(
                f"none of the {len(kept)} networks that were timed takes at most {duration(limit or 0.0)}; the fastest "
                f"took {least}; {unmeasured} were not timed: raise measure=, or allow less mass"
            )
        kept = sorted(quick, key=_ORDERS[order]) if order == "latency" else quick
    return Design(mass, kept, len(found), unmeasured, conditions)


def _timed(candidate: Candidate, threads: int | None, progress: Callable[[str], None] | None) -> Candidate:
    kwargs = candidate.kwargs
    features = kwargs.get("in_features")
    side = kwargs["input_size"]
    x = torch.zeros(1, features) if features else torch.zeros(1, kwargs["in_channels"], side, side)
    with torch.random.fork_rng(devices=[]):
        compiled = compile_model(candidate.create(), x, threads=threads)
    found = measure_latency(compiled, x, threads=threads, warmup=5, repeats=30, min_time=0.3)
    if progress is not None:
        progress(f"{candidate.model} {candidate.shown()}: {duration(found.median)}")
    return replace(candidate, latency=found)
