"""Networks of a wanted NN-Mass within budgets, designed without training: the links (or the blocks and widths) that give
the mass of a reference model, of a number, or of an accuracy on the line through finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.cli._parser import MOST_PIXELS, assignments, number, whole
from precut.cli._show import say, show
from precut.errors import PrecutError

if TYPE_CHECKING:
    from precut.topology import MassLine

__all__ = ["configure", "run"]

_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}


def _amount(word: str) -> float:
    """Reads a number above 0, also as 4.4M, 300k, 1.2G."""
    unit = _UNITS.get(word[-1:], 1.0)
    return number(word[:-1] if unit != 1.0 else word) * unit


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="the mass: a number, a model's name (see --width-mult, --model-set), a saved model's file, or with "
        "--accuracy the rows.csv of a claim",
    )
    parser.add_argument("--family", metavar="NAME", help="whose networks to look through (default: the target's)")
    parser.add_argument("--width-mult", metavar="X", type=number, default=1.0, help="of the target")
    parser.add_argument(
        "--model-set", metavar="NAME=VALUE", nargs="+", default=[], help="the target's own arguments: links=[8,16]"
    )
    parser.add_argument("--accuracy", metavar="X", type=number, help="what the network should reach, 0 to 1")
    parser.add_argument(
        "--tolerance", metavar="X", type=number, default=0.01, help="of the mass, a share (default 0.01)"
    )
    parser.add_argument("--params", metavar="N", type=_amount, help="at most so many parameters: 4.4M")
    parser.add_argument("--macs", metavar="N", type=_amount, help="at most so many multiply-adds: 300M")
    parser.add_argument("--depth", metavar="N", type=whole(), help="at most so many convolutions and linear layers")
    parser.add_argument("--latency-ms", metavar="X", type=number, help="at most so long a forward here, measured")
    parser.add_argument(
        "--order", metavar="BY", default="macs", help="macs, params, depth, degree or latency (default macs)"
    )
    parser.add_argument(
        "--option", metavar="NAME=VALUE", nargs="+", default=[], help="the family's: widths=[32,64] depthwise=true"
    )
    parser.add_argument(
        "--search", metavar="NAME=[VALUES]", nargs="+", default=[], help="any family's arguments: width_mult=[0.5,1.0]"
    )
    parser.add_argument("--input-size", metavar="N", type=whole(most=MOST_PIXELS), help="side of the images in pixels")
    parser.add_argument("--in-channels", metavar="N", type=whole())
    parser.add_argument("--num-classes", metavar="N", type=whole())
    parser.add_argument("--measure", metavar="N", type=whole(), default=5, help="networks to time (default 5)")
    parser.add_argument("--threads", metavar="N", type=whole(), help="of the timed networks")
    parser.add_argument("--top", metavar="N", type=whole(), default=20, help="rows to show (default 20)")
    parser.add_argument("--plot", metavar="FILE", help="also a picture of the family (.png, .svg or .pdf)")


def run(arguments: argparse.Namespace) -> None:
    """Designs and reports."""
    from precut.topology import design

    found = design(
        _target(arguments),
        arguments.family,
        accuracy=arguments.accuracy,
        tolerance=arguments.tolerance,
        params=arguments.params,
        macs=arguments.macs,
        depth=arguments.depth,
        latency=None if arguments.latency_ms is None else arguments.latency_ms / 1e3,
        order=arguments.order,
        num_classes=arguments.num_classes,
        input_size=arguments.input_size,
        in_channels=arguments.in_channels,
        search=assignments(arguments.search, "--search") or None,
        measure=arguments.measure,
        threads=arguments.threads,
        progress=say,
        **assignments(arguments.option, "--option"),
    )
    data = found.to_dict()
    data["candidates"] = data["candidates"][: arguments.top]
    show(found.table(arguments.top), data, arguments.json)  # before the picture, which may fail
    if arguments.plot:
        say(f"picture: {found.plot(arguments.plot)}")


def _target(arguments: argparse.Namespace) -> Any:
    """What the mass is taken from."""
    from precut.checkpoint import load
    from precut.models import create_model

    word = arguments.target
    if arguments.accuracy is not None:
        return _line(Path(word))
    try:
        return float(word)
    except ValueError:
        pass
    if word.endswith(".safetensors"):
        return load(word)
    import torch

    own = assignments(arguments.model_set, "--model-set")
    sizes = {key: getattr(arguments, key) for key in ("num_classes", "input_size", "in_channels")}
    given = {key: value for key, value in sizes.items() if value is not None}
    with torch.device("meta"):  # only its structure is looked at
        return create_model(word, width_mult=arguments.width_mult, **{**given, **own})


def _line(path: Path) -> MassLine:
    """The line through the finished runs of a claim."""
    import json

    import torch

    from precut.experiments import read_rows
    from precut.models import create_model
    from precut.topology import fit, nn_mass

    rows = read_rows(path)
    if not rows or "test_accuracy" not in rows[0]:
        raise PrecutError(f"--accuracy needs the rows.csv of a claim as target; {str(path)!r} is none, or is empty")
    masses, accuracies, params = [], [], []
    for row in rows:
        with torch.device("meta"):
            masses.append(float(nn_mass(create_model(row["model"], **json.loads(row["kwargs"])))))
        accuracies.append(float(row["test_accuracy"]))
        params.append(float(row["params"]))
    line = fit(masses, accuracies, params)
    say(line.verdict())
    return line
