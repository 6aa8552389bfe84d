"""A claim: a question, and the queue of short training runs that answers it, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from precut.errors import PrecutError, unknown, whole
from precut.supports import SupportMaker, from_spec, parse

__all__ = ["Claim", "Run", "list_claims", "load_claim"]

_RUN_KEYS = (
    *("name", "model", "kwargs", "support", "prune", "move", "ignored_layers", "init", "recipe", "seeds", "group"),
    *("dynamic", "per_class"),
)
_CLAIM_KEYS = ("question", "data", "input_size", "recipe", "runs")


@dataclass(frozen=True)
class Run:
    """One training: a model, its support, a recipe with changes, and one seed (of weights, order and augmentation).

    Attributes:
        support: a name; a maker's spec ({kind: ...}); or either for each glob of layer names, the first that matches
            counting and the rest staying dense. Not used where ``prune`` is given.
        prune: arguments of ``precut.prune`` (score, density, structure, ...) and ``images``, how many training images
            a score that needs data gets (default 500); None where the support is pre-defined.
        move: options of ``MovingSupports``, or None where the supports stay.
        dynamic: a ladder of subnets, or one of them alone; see ``experiments._dynamic``.
        per_class: how many training images of each class (``Dataset.take``) there are; None for all of them.
        init: "fresh" draws new weights on the support; "project" keeps those that the dense network had there.
    """

    name: str
    seed: int
    model: str
    kwargs: Mapping[str, Any]
    support: str | Mapping[str, Any]
    recipe: str
    changes: Mapping[str, Any]
    ignored_layers: tuple[str, ...] = ()
    init: str = "fresh"
    group: str = ""
    prune: Mapping[str, Any] | None = None
    move: Mapping[str, Any] | None = None
    dynamic: Mapping[str, Any] | None = None
    per_class: int | None = None

    @property
    def key(self) -> str:
        """Names the run's folder and its row."""
        return f"{self.name}-s{self.seed}"

    @property
    def supports(self) -> list[tuple[str, SupportMaker]]:
        """(glob of layer names, support), in the order in which they are tried."""
        if isinstance(self.support, str) or "kind" in self.support:
            return [("*", _maker(self.support))]
        return [(str(pattern), _maker(given)) for pattern, given in self.support.items()]

    @property
    def described(self) -> str:
        """The support in a few words, for tables: "PS4_P4", "synflow class:4, moved by rigl"."""
        if self.prune is not None:
            words = f"{self.prune.get('score', 'synflow')} {self.prune.get('structure') or 'weights'}"
            if isinstance(self.prune.get("allocation"), str):
                words += f", {self.prune['allocation']}"
        else:
            words = ", ".join(dict.fromkeys(str(maker) for _, maker in self.supports))
        return words if self.move is None else f"{words}, moved by {self.move.get('rule', 'rigl')}"


def _maker(given: str | Mapping[str, Any]) -> SupportMaker:
    return parse(given) if isinstance(given, str) else from_spec(given)


@dataclass(frozen=True)
class Claim:
    """A question and its runs, in the order in which they are to be done."""

    name: str
    question: str
    data: str
    input_size: int
    runs: tuple[Run, ...] = field(default=())


def _claims_folder() -> Any:
    return resources.files("precut.experiments") / "claims"


def list_claims() -> list[str]:
    """Names of the claims that come with precut."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _claims_folder().iterdir() if entry.name.endswith(".yaml")
    )


def load_claim(name_or_path: str | Path) -> Claim:
    """A claim by its name, or from a YAML file.

    The file has ``question``, ``data`` (a dataset), ``recipe`` ({name: ..., and changed fields}) and ``runs``: each with
    ``name``, ``model``, ``kwargs``, ``support`` or ``prune``, and if need be ``move``, ``ignored_layers``, ``init``,
    ``recipe`` (further changes), ``seeds`` (default [0]), ``per_class`` and ``group`` (what it is compared within). See
    ``Run``.
    """
    import yaml

    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise PrecutError(f"there is no claim file {str(path)!r}")
        name, text = path.stem, path.read_text()
    else:
        name = str(name_or_path)
        if name not in list_claims():
            raise unknown("claim", name, list_claims(), "precut list claims")
        text = (_claims_folder() / f"{name}.yaml").read_text()
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PrecutError(f"claim {name!r} is not valid YAML: {error}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("runs"), list):
        raise PrecutError(f"claim {name!r} must be a mapping with a list of 'runs'")
    for key in raw:
        if key not in _CLAIM_KEYS:
            raise unknown(f"field of claim {name!r}", key, _CLAIM_KEYS)
    if not isinstance(raw.get("data"), str):
        raise PrecutError(f"data of claim {name!r} must be the name of a dataset; got {raw.get('data')!r}")
    if not isinstance(raw.get("recipe", {}), dict):
        raise PrecutError(f"recipe of claim {name!r} must be {{name: ..., field: value}}; got {raw['recipe']!r}")
    shared = dict(raw.get("recipe") or {})
    by_order: list[tuple[int, Run]] = []
    for entry in raw["runs"]:
        _check_entry(entry, name)
        changes = {**shared, **(entry.get("recipe") or {})}
        recipe = changes.pop("name", "modern-cifar")
        for order, seed in enumerate(entry.get("seeds") or [0]):
            run = Run(
                name=str(entry["name"]),
                seed=int(seed),
                model=entry["model"],
                kwargs=dict(entry.get("kwargs") or {}),
                support=entry.get("support") or "dense",
                recipe=recipe,
                changes=changes,
                ignored_layers=tuple(entry.get("ignored_layers") or ()),
                init=entry.get("init") or "fresh",
                group=str(entry.get("group", "")),
                prune=entry.get("prune"),
                move=entry.get("move"),
                dynamic=entry.get("dynamic"),
                per_class=entry.get("per_class"),
            )
            by_order.append((order, run))
    # every run's first seed before any run's second: an interrupted queue has then seen everything once
    runs = tuple(run for _, run in sorted(by_order, key=lambda pair: pair[0]))
    keys = [run.key for run in runs]
    for key in keys:
        if keys.count(key) > 1:
            raise PrecutError(f"claim {name!r} has the run {key!r} twice; names with seeds must differ")
    return Claim(name, str(raw.get("question", "")), raw["data"], int(raw.get("input_size", 32)), runs)


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "name": ((str, int, float), "a name"),
    "model": (str, "a model's name"),
    "kwargs": (dict, "the model's arguments"),
    "support": ((str, dict), "a support's name (quote one with a colon: '2:4'), or a mapping"),
    "prune": (dict, "a mapping of prune's arguments"),
    "move": (dict, "a mapping of MovingSupports' options"),
    "dynamic": (dict, "a mapping"),
    "ignored_layers": (list, "a list of globs"),
    "init": (str, "fresh or project"),
    "recipe": (dict, "a mapping of fields to values"),
    "seeds": (list, "a list of whole numbers"),
}


def _check_entry(entry: Any, claim: str) -> None:
    """Refuses what is no run."""
    for key in entry if isinstance(entry, dict) else ():
        if key not in _RUN_KEYS:
            raise unknown(f"field of a run of claim {claim!r}", key, _RUN_KEYS)
    if not isinstance(entry, dict) or "name" not in entry or "model" not in entry:
        raise PrecutError(f"a run of claim {claim!r} is a mapping with name and model; got {entry!r:.100}")
    where = f"run {entry['name']!r} of claim {claim!r}"
    for key, value in entry.items():
        kind, told = _KINDS.get(key, (object, ""))
        if value is not None and not isinstance(value, kind):
            raise PrecutError(f"{where}: {key} must be {told}; got {value!r}")
    if not all(isinstance(seed, int) and seed >= 0 for seed in entry.get("seeds") or [0]):
        raise PrecutError(f"{where}: seeds must be whole numbers of at least 0; got {entry['seeds']!r}")
    if entry.get("per_class") is not None:
        whole(f"{where}: per_class", entry["per_class"])
    for one, other in (("prune", "support"), ("move", "dynamic")):
        if entry.get(one) is not None and entry.get(other) is not None:
            raise PrecutError(f"{where} has both {other} and {one}; choose one")


def spread(values: list[float]) -> float | None:
    """Sample standard deviation, or None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
