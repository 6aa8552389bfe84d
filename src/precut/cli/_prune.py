"""Prune a network before it is trained, into runs/NAME/ (model.safetensors, report.json, report.txt, kept.png): which
weights a score keeps, how many of them lie on paths, and which layers are at risk. --compare draws other scores beside."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.cli._options import add_model, build, channels_of, keep_form, load_data, refuse_form, run_folder
from precut.cli._parser import MOST_PIXELS, whole
from precut.cli._pruning import add_pruning, needs_data, prune_by
from precut.cli._show import say, show
from precut.errors import PrecutError

if TYPE_CHECKING:
    from precut.pruning import PruneReport

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME", required=True, help="see precut list models; or a saved model's file"
    )
    add_pruning(parser, "synflow")
    parser.add_argument(
        "--compare", metavar="SCORES", help="further scores, for the table and the picture: snip,magnitude"
    )
    add_model(parser)
    parser.add_argument(
        "--data", metavar="NAME", help="dataset for scores that look at images; it gives sizes and classes"
    )
    parser.add_argument(
        "--data-root", metavar="FOLDER", help="where datasets lie (default: the environment variable PRECUT_DATA)"
    )
    parser.add_argument(
        "--input-size", metavar="N", type=whole(most=MOST_PIXELS), help="side of the images (default 32)"
    )
    parser.add_argument("--in-channels", metavar="N", type=whole(), help="default 3")
    parser.add_argument("--num-classes", metavar="N", type=whole(), help="default 10")
    parser.add_argument("--threads", metavar="N", type=whole(), help="of torch (default: torch's choice)")
    parser.add_argument("--name", metavar="NAME", help="of the run (default MODEL-SCORE-DENSITY-sSEED)")
    parser.add_argument("--runs-dir", metavar="FOLDER", default="runs", help="default runs")
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    keep_form(parser, ("width_mult", "model_set", "init", "num_classes", "in_channels"))


def _folder(arguments: argparse.Namespace) -> Path:
    name = arguments.name
    if name is None:
        words = (Path(arguments.model).stem, arguments.score, arguments.density or arguments.structure or "given")
        name = re.sub(r"[^\w.-]", "_", "-".join(map(str, words)) + f"-s{arguments.seed}")
    folder = run_folder(arguments, name)
    if not arguments.overwrite:
        for file, kind in (
            ("config.json", "a training run"),
            ("report.json", "a pruning"),
            ("model.safetensors", "a model"),
        ):
            if (folder / file).exists():
                raise PrecutError(f"{str(folder)!r} holds {kind} already: choose another --name, or add --overwrite")
    return folder


def run(arguments: argparse.Namespace) -> None:
    """Prunes, reports, saves and draws."""
    import json

    import torch

    from precut._files import atomic_write
    from precut.checkpoint import load, save
    from precut.pruning import scores

    if arguments.support != "dense":
        raise PrecutError("--support fixes the weights beforehand, --score chooses them: leave one out")
    named = dict.fromkeys(word.strip() for word in (arguments.compare or "").split(","))
    others = [word for word in named if word not in ("", arguments.score)]
    for name in (arguments.score, *others):
        _ = scores[name]
    folder = _folder(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    dataset = None if arguments.data is None else load_data(arguments, arguments.input_size)
    if arguments.model.endswith(".safetensors"):
        refuse_form(arguments)
        model = load(arguments.model)
        kwargs: dict[str, Any] = getattr(model, "precut_spec")["kwargs"]  # noqa: B009
        channels, side = kwargs["in_channels"], arguments.input_size or kwargs["input_size"]
    else:
        channels, side = (3, 32) if dataset is None else channels_of(dataset)
        channels, side = arguments.in_channels or channels, arguments.input_size or side
        classes = arguments.num_classes or (10 if dataset is None else dataset.num_classes)
        model = build(arguments, classes, side, channels)
    shape = (channels, side, side)
    if dataset is not None and dataset.image_shape[:2] == (channels, side):
        shape = dataset.image_shape  # its images need not be square
    example = torch.zeros(1, *shape)
    looking = [name for name in (arguments.score, *others) if scores[name].needs_data]
    if looking and dataset is None:  # told before the first has taken its rounds
        raise needs_data(looking[0])
    reports: dict[str, PruneReport] = {}
    pruned, reports[arguments.score] = prune_by(arguments, model, example, dataset)
    for name in others:
        reports[name] = prune_by(_alone(arguments), model, example, dataset, name)[1]
    report = reports[arguments.score]
    path = save(pruned, folder / "model.safetensors", extra={"pruning": report.to_dict()})
    picture = _draw(reports, folder / "kept.png", arguments.model)
    data = {**report.to_dict(), "compared": {name: reports[name].to_dict() for name in others}, "model": str(path)}
    text = "\n\n".join([str(report), *([_compared(reports)] if others else [])])
    atomic_write(folder / "report.txt", text + "\n")
    atomic_write(folder / "report.json", json.dumps(data, indent=2) + "\n")
    say(f"model: {path}; picture: {picture}")
    show(text, data, arguments.json)


def _alone(arguments: argparse.Namespace) -> argparse.Namespace:
    """The same without what is the first score's own: the others take the rounds of their papers."""
    copied = argparse.Namespace(**vars(arguments))
    copied.remove_dead = copied.rounds = None
    return copied


def _draw(reports: dict[str, PruneReport], path: Path, model: str) -> Path:
    """Weights kept by layer, one line a score."""
    from precut.report import lines_plot

    first = next(iter(reports.values()))
    numbers = list(range(1, len(first.dense) + 1))
    # A logarithm has no room for an empty layer: it is drawn at one half, below any layer that keeps a weight.
    series = {name: (numbers, [max(kept, 0.5) for kept in report.kept.values()]) for name, report in reports.items()}
    series = {"dense": (numbers, list(first.dense.values())), **series}
    return lines_plot(
        series,
        path,
        x_label="layer, from input to output",
        y_label="weights kept (0 drawn at 0.5)",
        title=f"{Path(model).stem}, {first.k:,} of {first.size:,} weights",
        log_y=True,
    )


def _compared(reports: dict[str, PruneReport]) -> str:
    from precut.report import Column, Table, count

    first = next(iter(reports.values()))
    rows = [
        {"layer": layer, "dense": dense, **{name: report.kept[layer] for name, report in reports.items()}}
        for layer, dense in first.dense.items()
    ]
    totals: list[dict[str, Any]] = [
        {"layer": "total", "dense": first.size, **{name: report.k for name, report in reports.items()}},
        {
            "layer": "on a path",
            **{n: None if r.live is None else sum(r.live.values()) for n, r in reports.items()},
        },
        {"layer": "empty layers", **{name: len(report.empty) for name, report in reports.items()}},
    ]
    columns = [Column(key, format=count, align="right") for key in ("dense", *reports)]
    return str(Table(rows, [Column("layer", align="left"), *columns], title="weights kept by layer", totals=totals))
