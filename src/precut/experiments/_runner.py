"""Working through a claim's queue: finished rows are kept, interrupted runs are resumed, the rest is run."""

from __future__ import annotations

import csv
import fnmatch
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from precut._files import atomic_write, locked
from precut.data import BatchLoader, Dataset
from precut.data import load as load_data
from precut.errors import unknown
from precut.experiments._claim import Claim, Run
from precut.experiments._dynamic import do_dynamic
from precut.experiments._row import COLUMNS, check_same, row_of
from precut.layers import init_fresh_, sparsify
from precut.measure import summary
from precut.models import create_model
from precut.pruning import prune, scores
from precut.training import MovingSupports, Recipe, fit, initialise_, load_recipe

__all__ = ["COLUMNS", "build", "read_rows", "recipe_of", "run_claim"]

_SCORED_IMAGES = 500


def build(run: Run, dataset: Dataset, input_size: int) -> torch.nn.Module:
    """The untrained network of a run; its weights depend on the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        channels = dataset.image_shape[0]
        model = create_model(
            run.model, num_classes=len(dataset.classes), input_size=input_size, in_channels=channels, **run.kwargs
        )
    if run.prune is not None:
        return _pruned(model, run, dataset)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    for pattern, maker in run.supports:
        chosen = fnmatch.filter(names, pattern)
        # What a former pattern made sparse is no nn.Conv2d any more, and needs no name here.
        others = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
        ignored = [*run.ignored_layers, *(name for name in others if name not in chosen)]
        model = sparsify(model, maker, ignored_layers=ignored, init=run.init, seed=run.seed)
        names = [name for name in names if name not in chosen]
    return model


def _pruned(model: torch.nn.Module, run: Run, dataset: Dataset) -> torch.nn.Module:
    options = dict(run.prune or {})
    recipe = recipe_of(run)
    count = options.pop("images", _SCORED_IMAGES)
    name = options.get("score", "synflow")
    looks = name in scores and scores[name].needs_data
    # Labels are looked at: not those of the images that choose the epoch. Splitting copies all images: not for nothing.
    train = recipe.split(dataset)[0] if looks else None
    initialise_(model, dataset, recipe, run.seed, train)
    if train is not None:
        loader = BatchLoader(train, count, dataset.mean, dataset.std, shuffle=True, seed=run.seed)
        options["data"] = [next(iter(loader))]
    example = torch.zeros(1, *dataset.image_shape)
    pruned, _ = prune(model, example_inputs=example, ignored_layers=run.ignored_layers, seed=run.seed, **options)
    return init_fresh_(pruned, run.seed) if run.init == "fresh" else pruned


def recipe_of(run: Run) -> Recipe:
    """The run's recipe with its changes."""
    return load_recipe(run.recipe).replace(**run.changes)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The finished rows of a results file, oldest first; none if there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue())


def run_claim(
    claim: Claim,
    results: Path,
    runs_folder: Path,
    *,
    only: str | None = None,
    data_root: str | Path | None = None,
    threads: int | None = None,
    progress: bool = True,
    on_row: Callable[[Mapping[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Does the runs of ``claim`` that ``results`` (a CSV file) does not hold yet, and returns all rows.

    A row is written as soon as its run is finished. A run that was interrupted is resumed from its folder under
    ``runs_folder``.

    Args:
        only: do the runs whose key ("low-dense-s0") this glob matches.
        on_row: called with each new row.
    """
    chosen = [run for run in claim.runs if only is None or fnmatch.fnmatchcase(run.key, only)]
    if not chosen:
        raise unknown(f"run of claim {claim.name!r}", only, [run.key for run in claim.runs])
    dataset = load_data(claim.data, root=data_root)
    for run in chosen:
        folder = runs_folder / claim.name / run.key
        with locked(folder.with_name(f"{folder.name}.lock")) as mine:
            # Other processes may be working on the same queue.
            if not mine or _finished(run, results):
                continue
            images = dataset if run.per_class is None else dataset.take(run.per_class)
            row = _do(run, claim, images, folder, threads, progress)
            with locked(results.with_name(f".{results.name}.lock"), wait=True):
                _write_rows(results, [*read_rows(results), row])
        if on_row is not None:
            on_row(row)
    return list(read_rows(results))


def _finished(run: Run, results: Path) -> bool:
    for row in read_rows(results):
        if row["run"] == run.name and int(row["seed"]) == run.seed:
            check_same(row, run, results)
            return True
    return False


def _do(run: Run, claim: Claim, dataset: Dataset, folder: Path, threads: int | None, progress: bool) -> dict[str, Any]:
    model = build(run, dataset, claim.input_size)
    recipe = recipe_of(run)
    if run.prune is not None:  # the scores have seen the initial weights
        recipe = recipe.replace(init="model")
    if run.dynamic is not None:
        return do_dynamic(run, model, recipe, dataset, folder, threads, progress)
    example = torch.zeros(1, *dataset.image_shape)
    counts = summary(model, example)
    result = fit(
        model,
        dataset,
        recipe,
        run_dir=folder,
        seed=run.seed,
        threads=threads,
        resume=(folder / "config.json").exists(),
        progress=progress,
        callbacks=[] if run.move is None else [MovingSupports.of({"seed": run.seed, **run.move})],
    )
    return row_of(run, recipe, counts, result, threads)
