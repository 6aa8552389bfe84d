"""The names that other commands take."""

from __future__ import annotations

import argparse
import fnmatch
from typing import Any

from precut.cli._show import show
from precut.errors import PrecutError, unknown

__all__ = ["configure", "run"]


def _models() -> list[dict[str, Any]]:
    from precut.models import list_models, model_options

    return [{"name": name, "options": ", ".join(model_options(name))} for name in list_models()]


def _supports() -> list[dict[str, Any]]:
    from precut.supports import FAMILIES, parse

    forms = [*FAMILIES, "center", "center_P4", "2:4"]
    shape = (64, 64, 3, 3)  # of a layer wide enough for every period
    return [{"name": name, "of 9 weights": 9 * parse(name).support(shape).density} for name in forms]


def _data() -> list[dict[str, Any]]:
    from precut.data import list_datasets

    return [{"name": name} for name in list_datasets()]


def _recipes() -> list[dict[str, Any]]:
    from precut.training import list_recipes, load_recipe

    recipes = [load_recipe(name) for name in list_recipes()]
    keys = ("name", "epochs", "batch_size", "optimizer", "lr", "schedule", "precision")
    return [{key: getattr(recipe, key) for key in keys} for recipe in recipes]


def _claims() -> list[dict[str, Any]]:
    from precut.experiments import list_claims, load_claim

    claims = [load_claim(name) for name in list_claims()]
    return [
        {"name": claim.name, "data": claim.data, "runs": len(claim.runs), "question": " ".join(claim.question.split())}
        for claim in claims
    ]


def _kernels() -> list[dict[str, Any]]:
    from precut import runtime
    from precut.ops import operators

    torch_side = [{"name": name, "computes": operators[name].operation, "runs_here": "yes"} for name in operators]
    if not runtime.available():
        return torch_side
    return torch_side + [{"name": row.pop("kernel"), **row} for row in map(dict, runtime.ops_table())]


_KINDS = {
    "models": (_models, "options: the model's own, for --model-set"),
    "supports": (
        _supports,
        "of 9 weights: kept on average by a 3x3 kernel. Also PS<kss>_P<period>, PSD<kss>_P<period>, pSC<kss>, <n>:<m>",
    ),
    "data": (_data, "also the path of a folder or parquet file of images"),
    "recipes": (_recipes, "also the path of a YAML file"),
    "claims": (_claims, "precut reproduce NAME works through a claim's runs"),
    "kernels": (_kernels, "operators of torch's side first, then those of the native library, where it was built"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", help=", ".join(_KINDS))
    parser.add_argument("glob", metavar="GLOB", nargs="?", default="*", help="only names like this: 'resnet*'")


def run(arguments: argparse.Namespace) -> None:
    """Lists one kind."""
    from precut.report import Column, Table

    if arguments.kind not in _KINDS:
        raise unknown("kind of name", arguments.kind, _KINDS)
    make, note = _KINDS[arguments.kind]
    everything = make()
    rows = [row for row in everything if fnmatch.fnmatchcase(row["name"], arguments.glob)]
    if not rows:
        raise PrecutError(
            f"none of the {len(everything)} {arguments.kind} is like {arguments.glob!r}; "
            f"precut list {arguments.kind} shows all"
        )
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = [Column(key, key.replace("_", " "), ".3g" if key == "of 9 weights" else None) for key in keys]
    # a kernel's name is all that tells it from its neighbours: it is never shortened
    width = 240 if arguments.kind == "kernels" else 120
    show(Table(rows, columns, notes=[note]).text(width), rows, arguments.json)
