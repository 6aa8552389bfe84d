"""Options of pruning before training, which several commands take, and what they ask for."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from precut.cli._parser import assignments, number, whole
from precut.cli._show import say
from precut.errors import PrecutError

if TYPE_CHECKING:
    from torch import nn

    from precut.data import Dataset, LazySplit, Split
    from precut.pruning import PruneReport

__all__ = ["add_pruning", "needs_data", "prune_by", "wants_pruning"]

_GIVEN = (
    "score", "density", "structure", "allocation", "rounds", "min_per_layer", "remove_dead", "schedule", "budget", "images"
)  # fmt: skip
_IMAGES = 500
_BATCH = 256


def add_pruning(parser: argparse.ArgumentParser, score: str | None = None) -> None:
    """``--score``, ``--density`` and how the weights are shared out.

    Args:
        score: the default; None where pruning has to be asked for.
    """
    default = f" (default {score})" if score else " (default synflow, once any of these options is given)"
    group = parser.add_argument_group("pruning before training")
    group.add_argument(
        "--score",
        metavar="NAME",
        default=score,
        help=f"synflow, snip, grasp, magnitude, random, force or ntk-sap{default}",
    )
    group.add_argument("--density", metavar="X", type=number, help="kept / prunable weights: 0.01")
    group.add_argument("--rounds", metavar="N", type=whole(), help="default: what the score's paper takes")
    group.add_argument("--schedule", metavar="NAME", help="exponential (default) or linear")
    group.add_argument(
        "--allocation",
        metavar="NAME",
        help="global (default), uniform, erdos-renyi, erdos-renyi-kernel, like:SCORE",
    )
    group.add_argument(
        "--layer-density", metavar="GLOB=X", nargs="+", default=[], help="densities by layer, by hand: '*'=0.1 head=0.5"
    )
    group.add_argument("--min-per-layer", metavar="N", type=whole(0), help="weights that every layer keeps (default 0)")
    group.add_argument("--structure", metavar="NAME", help="class:8, kernel, block:16, PSD4_P8, 2:4 ...")
    group.add_argument("--budget", metavar="WHAT", help="what --density is a share of: weights (default) or macs")
    group.add_argument("--images", metavar="N", type=whole(), help=f"that snip, grasp, force see (default {_IMAGES})")
    group.add_argument(
        "--remove-dead", action="store_true", default=None, help="also weights and channels without effect"
    )


def wants_pruning(arguments: argparse.Namespace) -> bool:
    """Whether any option of pruning was given."""
    return any(getattr(arguments, name) is not None for name in _GIVEN) or bool(arguments.layer_density)


def needs_data(score: str) -> PrecutError:
    """The error for a score that looks at images, where there are none."""
    return PrecutError(f"score {score!r} looks at images: add --data NAME (see precut list data)")


def prune_by(
    arguments: argparse.Namespace,
    model: nn.Module,
    example: Any,
    dataset: Dataset | None,
    score: str | None = None,
    images: Split | LazySplit | None = None,
) -> tuple[nn.Module, PruneReport]:
    """The pruned model and the report.

    Args:
        dataset: for scores that look at data; None where none was named.
        score: instead of the arguments' own.
        images: of the dataset, that such scores may see; by default all that are for training.
    """
    from precut.pruning import prune, scores

    name = score or arguments.score or "synflow"
    kind = scores[name]
    allocation: Any = arguments.allocation or "global"
    if arguments.layer_density:
        if arguments.allocation is not None:
            raise PrecutError("--layer-density and --allocation exclude each other; choose one")
        allocation = assignments(arguments.layer_density, "--layer-density")
    needs = [name, *([allocation.removeprefix("like:")] if str(allocation).startswith("like:") else [])]
    looking = [each for each in needs if scores[each].needs_data]
    if looking and dataset is None:
        raise needs_data(looking[0])
    return prune(
        model,
        name,
        arguments.density,
        example,
        allocation=allocation,
        rounds=arguments.rounds or kind.rounds,
        schedule=arguments.schedule or "exponential",
        data=_batches(dataset, images or dataset.train, arguments.images or _IMAGES, arguments.seed)
        if looking and dataset is not None
        else None,
        ignored_layers=arguments.ignored_layers,
        min_per_layer=arguments.min_per_layer or 0,
        structure=arguments.structure,
        budget=arguments.budget or "weights",
        remove_dead=bool(arguments.remove_dead),
        seed=arguments.seed,
        on_round=_progress(name),
    )


def _batches(dataset: Dataset, split: Split | LazySplit, images: int, seed: int) -> list[Any]:
    """The first training images of a shuffled epoch, normalised, in batches."""
    from precut.data import BatchLoader

    size = min(_BATCH, images)
    loader = BatchLoader(split, size, dataset.mean, dataset.std, shuffle=True, seed=seed)
    batches: list[Any] = []
    left = images
    for inputs, targets in loader:
        batches.append((inputs[:left], targets[:left]))
        left -= len(batches[-1][1])
        if left <= 0:
            break
    return batches


def _progress(name: str) -> Callable[[int, int, int], None]:
    """Says every two seconds how far it is."""
    last = time.monotonic()

    def tell(done: int, rounds: int, left: int) -> None:
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            say(f"{name}: round {done} of {rounds}, {left:,} weights left")

    return tell
