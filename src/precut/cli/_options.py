"""Options that several commands share, and the networks and recipes that they describe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.cli._parser import assignments, number, seed, whole
from precut.errors import PrecutError

if TYPE_CHECKING:
    from torch import nn

    from precut.data import Dataset
    from precut.training import MovingSupports, Recipe

__all__ = [
    "add_data",
    "add_model",
    "add_moves",
    "add_recipe",
    "build",
    "changes_of",
    "channels_of",
    "keep_form",
    "load_data",
    "moves_of",
    "recipe_of",
    "refuse_form",
    "run_folder",
]


def add_data(parser: argparse.ArgumentParser, default: str | None) -> None:
    """``--data`` and ``--data-root``."""
    said = f"default {default}" if default else "default: what the model was trained on"
    parser.add_argument("--data", metavar="NAME", default=default, help=f"dataset, by name or path ({said})")
    parser.add_argument(
        "--data-root", metavar="FOLDER", help="where datasets lie (default: the environment variable PRECUT_DATA)"
    )


def load_data(arguments: argparse.Namespace, image_size: int | None = None) -> Dataset:
    """The dataset that ``--data`` and ``--data-root`` name."""
    from precut.data import load

    return load(arguments.data, root=arguments.data_root, image_size=image_size)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The network's form, beside its name."""
    parser.add_argument("--support", metavar="NAME", default="dense", help="PS4_P4, PSD1_P16, 2:4, ... (default dense)")
    parser.add_argument("--width-mult", metavar="X", type=number, default=1.0, help="scales every hidden width")
    parser.add_argument(
        "--model-set", metavar="NAME=VALUE", nargs="+", default=[], help="the model's own arguments: widths=[32,64,64]"
    )
    parser.add_argument(
        "--ignored-layers", metavar="GLOB", nargs="+", default=[], help="layers that stay dense: 'layer4.*'"
    )
    parser.add_argument("--init", metavar="HOW", default="fresh", help="sparse layers' weights: fresh or project")
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="of weights, order and augmentation")


def keep_form(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Remembers the defaults of options that only a model's name takes, for :func:`refuse_form`."""
    parser.set_defaults(form={name: parser.get_default(name) for name in names})


def refuse_form(arguments: argparse.Namespace) -> None:
    """Refuses these options where the model is a file, which holds its own form."""
    given = [name for name, default in arguments.form.items() if getattr(arguments, name) != default]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise PrecutError(f"{option} is for a model's name; the file {arguments.model!r} holds its own form")


def build(arguments: argparse.Namespace, num_classes: int, input_size: int, in_channels: int) -> nn.Module:
    """The untrained network; its weights depend on the seed alone."""
    import torch

    from precut.layers import sparsify
    from precut.models import create_model

    own: dict[str, Any] = assignments(arguments.model_set, "--model-set")
    own.setdefault("width_mult", arguments.width_mult)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        model = create_model(
            arguments.model, **{"num_classes": num_classes, "input_size": input_size, "in_channels": in_channels, **own}
        )
    return sparsify(
        model, arguments.support, ignored_layers=arguments.ignored_layers, init=arguments.init, seed=arguments.seed
    )


def channels_of(dataset: Dataset) -> tuple[int, int]:
    """(channels, side in pixels) of the images."""
    channels, height, _ = dataset.image_shape
    return channels, height


def run_folder(arguments: argparse.Namespace, name: str) -> Path:
    """The folder of a run below ``--runs-dir``."""
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
        raise PrecutError(f"--name must be the name of one folder below {arguments.runs_dir!r}; got {name!r}")
    return Path(arguments.runs_dir) / name


def add_recipe(parser: argparse.ArgumentParser, default: str, threads: str = "torch's choice") -> None:
    """``--recipe`` and what it may be changed by."""
    parser.add_argument("--recipe", metavar="NAME", default=default, help=f"recipe or YAML file (default {default})")
    parser.add_argument("--epochs", metavar="N", type=whole())
    parser.add_argument("--lr", metavar="X", type=number, help="highest learning rate")
    parser.add_argument("--batch-size", metavar="N", type=whole())
    parser.add_argument("--precision", metavar="NAME", help="32-true, bf16-mixed or auto")
    parser.add_argument(
        "--set", metavar="FIELD=VALUE", nargs="+", default=[], help="any field of the recipe: label_smoothing=0"
    )
    parser.add_argument("--threads", metavar="N", type=whole(), help=f"of torch (default: {threads})")


def changes_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the recipe that options change."""
    changes = assignments(arguments.set, "--set")
    for name in ("epochs", "lr", "batch_size", "precision"):
        value = getattr(arguments, name)
        if value is not None:
            changes[name] = value
    return changes


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe with its changes."""
    from precut.training import load_recipe

    return load_recipe(arguments.recipe, **changes_of(arguments))


def add_moves(parser: argparse.ArgumentParser) -> None:
    """``--move``: supports that move while the network trains."""
    parser.add_argument("--move", metavar="RULE", help="let the supports move: rigl (largest gradient) or set (random)")
    parser.add_argument(
        "--move-set",
        metavar="NAME=VALUE",
        nargs="+",
        default=[],
        help="how: every=100 fraction=0.3 end=0.75 unit=weights period=8",
    )


def moves_of(arguments: argparse.Namespace) -> list[MovingSupports]:
    """The callback that ``--move`` asks for, if it does."""
    from precut.training import MovingSupports

    options = assignments(arguments.move_set, "--move-set")
    if arguments.move is None:
        if options:
            raise PrecutError("--move-set needs --move RULE (rigl or set)")
        return []
    return [MovingSupports.of({"rule": arguments.move, "seed": arguments.seed, **options})]
