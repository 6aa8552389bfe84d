"""Grow a family of networks (depth, width, support, resolution, density), train and time each candidate on part of a
dataset, reject what is beaten or behind, into runs/NAME/. Several workers and machines may share one database; the same
command goes on with an interrupted study."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from precut.cli._options import add_data, add_recipe, changes_of, run_folder
from precut.cli._parser import number, seed, share, whole
from precut.cli._show import say, show
from precut.errors import PrecutError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", metavar="FILE", help="YAML: name to list of choices (default: ResNets for CIFAR)")
    add_data(parser, "cifar10")
    parser.add_argument("--images-per-class", metavar="N", type=whole(), help="train on so many of each class")
    add_recipe(parser, "modern-cifar", threads="1")
    parser.add_argument("--min-accuracy", metavar="X", type=share, default=0.0001, help="that is grown from (0 to 1)")
    parser.add_argument("--trials", metavar="N", type=whole(), default=40, help="candidates (default 40)")
    parser.add_argument("--minutes", metavar="X", type=number, help="begin no candidate after so many")
    parser.add_argument("--workers", metavar="N", type=whole(), default=1, help="processes, or Ray tasks (default 1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="run them on a Ray cluster: auto, or its address")
    parser.add_argument(
        "--storage", metavar="URL", help="database: postgresql://... or a SQLite file (default: in the run)"
    )
    parser.add_argument("--sampler", metavar="NAME", default="grow", help="grow, tpe, nsga2 or random (default grow)")
    parser.add_argument(
        "--rungs", metavar="N", type=whole(0), default=1, help="of successive halving (default 1; 0 none)"
    )
    parser.add_argument("--eta", metavar="N", type=whole(2), default=3, help="a rung keeps one of eta (default 3)")
    parser.add_argument("--batch", metavar="N", type=whole(), default=1, help="of the timed call (default 1)")
    parser.add_argument("--grace", metavar="S", type=whole(), default=60, help="a worker silent so long is given up")
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="of weights, order and sampling")
    parser.add_argument("--name", metavar="NAME", default="search", help="of the study and its run (default search)")
    parser.add_argument("--runs-dir", metavar="FOLDER", default="runs", help="default runs")


def run(arguments: argparse.Namespace) -> None:
    """Searches and reports."""
    from precut.deadline import DEFAULT_SPACE, Plan, Space, check_settings, search, storage_url
    from precut.training import load_recipe

    if not re.fullmatch(r"[\w.-]+", arguments.name):  # it names a database's study too
        raise PrecutError(f"--name takes letters, digits, '_', '.' and '-'; got {arguments.name!r}")
    space = Space.read(arguments.space) if arguments.space else Space(DEFAULT_SPACE)
    changes = changes_of(arguments)
    load_recipe(arguments.recipe, **changes)  # a wrong one is told before the work
    folder = run_folder(arguments, arguments.name).resolve()
    root = arguments.data_root
    settings: dict[str, Any] = {
        "data": arguments.data,
        "data_root": None if root is None else str(Path(root).resolve()),
        "per_class": arguments.images_per_class,
        "recipe": arguments.recipe,
        "changes": changes,
        "batch": arguments.batch,
        "threads": arguments.threads or 1,
        "seed": arguments.seed,
    }
    if arguments.ray is None:  # a cluster's nodes may have data that is not here
        check_settings(settings)
    plan = Plan(
        name=arguments.name,
        storage=storage_url(arguments.storage, folder),
        space=space.to_dict(),
        settings=settings,
        trials=arguments.trials,
        runs=str(folder),
        min_accuracy=arguments.min_accuracy,
        sampler=arguments.sampler,
        seed=arguments.seed,
        eta=arguments.eta,
        rungs=arguments.rungs,
        heartbeat_s=max(1, arguments.grace // 6),
        grace_s=arguments.grace,
        until=None if arguments.minutes is None else time.time() + 60 * arguments.minutes,
    )
    say(f"{len(space)} candidates in the space, {plan.trials} trials, study in {plan.shown_storage}")
    result = search(plan, arguments.workers, ray=arguments.ray, on_change=_Told(plan.trials))
    runs = " ".join(row["run"] for row in result.best)
    hint = "the same command goes on"
    if result.done and not runs:
        hint = f"no candidate has a validation accuracy of {plan.min_accuracy:g} (--min-accuracy): add trials or epochs"
    elif result.done:
        hint = f"next: precut profile {runs} --data {arguments.data} --split test"
    show(f"{result}\n{hint}", result.to_dict(), arguments.json)


class _Told:
    """A line whenever a trial came to its end."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.last = -1

    def __call__(self, counts: Mapping[str, int]) -> None:
        over = counts["finished"] + counts["halved"] + counts["rejected"]
        if over != self.last:
            self.last = over
            told = ", ".join(f"{value} {state}" for state, value in counts.items() if value)
            say(f"{over} of {self.trials} trials over: {told or 'beginning'}")
