"""Measure saved models here (time, accuracy, energy where there are counters) and keep the points worth keeping; with
--record also traces of real runs under load. Writes runs/NAME/ (profile.json, frontier.json, frontier.png,
trace-LOAD.jsonl)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.cli._options import add_data, run_folder
from precut.cli._parser import number, seed, share, whole
from precut.cli._show import say, show
from precut.errors import PrecutError

if TYPE_CHECKING:
    from precut.deadline import Profile

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="FILE", nargs="+", help="model.safetensors files, or folders of runs")
    add_data(parser, None)
    parser.add_argument("--split", metavar="NAME", default="val", help="accuracy on val or test images (default val)")
    parser.add_argument("--batch", metavar="N", type=whole(), nargs="+", default=[1], help="batch sizes (default 1)")
    parser.add_argument("--rounds", metavar="N", type=whole(), default=1000, help="timed calls of each (default 1000)")
    parser.add_argument("--threads", metavar="N", type=whole(), default=1, help="of a call (default 1)")
    parser.add_argument(
        "--time", metavar="NAME", default="p99_ucb", help="of the frontier: p99_ucb, p99, p90, mean, ..."
    )
    parser.add_argument("--min-accuracy", metavar="X", type=share, help="of the frontier, from 0 to 1")
    parser.add_argument("--tolerance", metavar="X", type=number, default=0.0, help="accuracy that thinning may lose")
    parser.add_argument("--max-points", metavar="N", type=whole(), help="thin the frontier to at most so many")
    parser.add_argument(
        "--record", metavar="LOAD", nargs="+", default=[], help="also record traces: idle, stress, bursts"
    )
    parser.add_argument("--requests", metavar="N", type=whole(), default=3000, help="of a trace (default 3000)")
    parser.add_argument(
        "--gap-ms", metavar="X", type=number, default=20.0, help="between requests, at least (default 20)"
    )
    parser.add_argument("--stressors", metavar="N", type=whole(), default=1, help="processes of a load (default 1)")
    parser.add_argument("--deadlines-ms", metavar="X", type=number, nargs=2, help="lowest and highest, after arrival")
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="of orders and deadlines")
    parser.add_argument("--name", metavar="NAME", default="profile", help="of the run (default profile)")
    parser.add_argument("--runs-dir", metavar="FOLDER", default="runs", help="default runs")
    parser.add_argument("--resume", action="store_true", help="keep what the run has, measure what it lacks")
    parser.add_argument("--overwrite", action="store_true", help="measure anew")


def run(arguments: argparse.Namespace) -> None:
    """Profiles, records and reports."""
    from precut.deadline import LOADS, load_targets, profile, samples_for
    from precut.errors import unknown

    for load in arguments.record:
        if load not in LOADS:
            raise unknown("load", load, LOADS)
    if arguments.resume and arguments.overwrite:
        raise PrecutError("--resume and --overwrite exclude each other; choose one")
    folder = run_folder(arguments, arguments.name)
    file = folder / "profile.json"
    if file.is_file() and not (arguments.resume or arguments.overwrite):
        raise PrecutError(
            f"{str(folder)!r} holds a profile: add --resume to keep it, --overwrite to measure anew, or choose another "
            "--name"
        )
    needed = samples_for(arguments.time)  # told before the work
    if arguments.rounds < needed and not (file.is_file() and arguments.resume):
        raise PrecutError(f"--time {arguments.time} takes at least {needed} rounds; got --rounds {arguments.rounds}")
    say(f"loading and compiling {len(arguments.models)} models, measuring their accuracy on {arguments.split} images")
    targets, example = load_targets(
        arguments.models,
        arguments.data,
        data_root=arguments.data_root,
        split=arguments.split,
        batch=max(arguments.batch),
        threads=arguments.threads,
    )
    if file.is_file() and arguments.resume:
        found = _known(file, targets, arguments)
        say(f"keeping {file}")
    else:
        conditions = {"engine_threads": arguments.threads, "split": arguments.split}
        found = profile(
            targets,
            example,
            batches=arguments.batch,
            rounds=arguments.rounds,
            seed=arguments.seed,
            conditions=conditions,
        )
        found.save(file)
    batch = max(arguments.batch)
    frontier = found.frontier(
        arguments.time,
        batch=batch,
        min_accuracy=arguments.min_accuracy,
        tolerance=arguments.tolerance,
        max_points=arguments.max_points,
    )
    frontier.save(folder / "frontier.json")
    frontier.plot(folder / "frontier.png")
    traces = {load: str(_trace(load, frontier, example, batch, folder, arguments)) for load in arguments.record}
    data: dict[str, Any] = {
        "run": str(folder),
        "profile": found.table().to_dict()["rows"],
        "frontier": [
            {"point": p.name, "seconds": t, "accuracy": p.accuracy}
            for p, t in zip(frontier, frontier.times, strict=True)
        ],
        "loss": frontier.loss,
        "traces": traces,
        "environment": dict(found.environment),
    }
    text = f"{found}\n\n{frontier}\n\nin {folder}"
    show(text, data, arguments.json)


def _known(file: Path, targets: list[Any], arguments: argparse.Namespace) -> Profile:
    from precut.deadline import Profile

    found = Profile.load(file, {target.name: target.run for target in targets})
    for option, key in (("threads", "engine_threads"), ("split", "split")):
        was, now = found.environment.get(key), getattr(arguments, option)
        if was is not None and was != now:
            raise PrecutError(
                f"{str(file)!r} was measured with --{option} {was}, not {now}: take the same, or another --name"
            )
    missing = {target.name for target in targets} - {point.name for point in found.points}
    if missing:
        raise PrecutError(
            f"{str(file)!r} has no point {sorted(missing)[0]!r}: it was measured with other models; add --overwrite"
        )
    return found


def _trace(load: str, frontier: Any, example: Any, batch: int, folder: Path, arguments: argparse.Namespace) -> Path:
    from precut.deadline import record

    path = folder / f"trace-{load}.jsonl"
    if path.is_file() and arguments.resume:
        say(f"keeping {path}")
        return path
    limits = arguments.deadlines_ms
    trace = record(
        frontier.points,
        example,
        arguments.requests,
        load=load,
        deadlines_s=None if limits is None else (limits[0] * 1e-3, limits[1] * 1e-3),
        gap_s=arguments.gap_ms * 1e-3,
        batch=batch,
        stressors=arguments.stressors,
        seed=arguments.seed,
    )
    return trace.write(path)
