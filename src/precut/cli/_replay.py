"""Judge policies for deadlines on one trace, recorded (a file) or made (--made LOAD): what each would have delivered,
which promises it would have broken, beside oracles that know the future."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from precut.cli._parser import number, seed, whole
from precut.cli._show import say, show
from precut.errors import PrecutError

if TYPE_CHECKING:
    from precut.deadline import Frontier, Trace

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", nargs="?", help="a *.jsonl or *.parquet file")
    parser.add_argument(
        "--profile", metavar="FILE", required=True, help="profile.json or frontier.json of precut profile"
    )
    parser.add_argument("--other-machine", action="store_true", help="take a profile of another machine")
    parser.add_argument(
        "--policies", metavar="NAME", nargs="+", help="default all: conformal, mean-time, clairvoyant, ..."
    )
    parser.add_argument("--miss-budget", metavar="X", type=number, default=0.01, help="of promises (default 0.01)")
    parser.add_argument("--gamma", metavar="X", type=number, default=0.005, help="step of calibration (default 0.005)")
    parser.add_argument("--batch", metavar="N", type=whole(), default=1, help="whose times count (default 1)")
    parser.add_argument(
        "--deadlines-ms", metavar="X", type=number, nargs=2, help="draw other deadlines: lowest, highest"
    )
    parser.add_argument("--made", metavar="LOAD", help="instead of a file: steady, square, markov or ramp")
    parser.add_argument("--requests", metavar="N", type=whole(), default=3000, help="of a made trace (default 3000)")
    parser.add_argument("--arrival", metavar="LAW", default="periodic", help="of a made trace: periodic or poisson")
    parser.add_argument("--gap-ms", metavar="X", type=number, default=50.0, help="between arrivals (default 50)")
    parser.add_argument("--slowdown", metavar="X", type=number, default=2.5, help="under made load (default 2.5)")
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="of made traces and deadlines")
    parser.add_argument("--plot", metavar="FILE", help="picture over time: *.png, *.svg or *.pdf")
    parser.add_argument("--save-trace", metavar="FILE", help="write the trace that was replayed")


def run(arguments: argparse.Namespace) -> None:
    """Replays and reports."""
    from precut.deadline import policies, replay

    for name in arguments.policies or ():
        policies[name]  # an unknown one is told before the work
    if (arguments.trace is None) == (arguments.made is None):
        raise PrecutError("precut replay takes a TRACE file or --made LOAD; give exactly one of the two")
    frontier = _frontier(arguments)
    trace = _trace(arguments, frontier)
    if arguments.save_trace:
        trace.write(arguments.save_trace)
    report = replay(trace, frontier, arguments.policies, miss_budget=arguments.miss_budget, gamma=arguments.gamma)
    show(report, report.to_dict(), arguments.json)  # before the picture, which may fail
    if arguments.plot:
        shown = [name for name in report.outcomes if name in ("conformal", "mean-time", "static-p99", "clairvoyant")]
        say(f"picture: {report.plot(arguments.plot, shown or None)}")


def _frontier(arguments: argparse.Namespace) -> Frontier:
    import json

    from precut.deadline import Frontier, Profile

    path = Path(arguments.profile)
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("format", "")
    except (OSError, ValueError, AttributeError):
        kind = ""
    if kind.startswith("precut-frontier"):
        return Frontier.load(path, other_machine=arguments.other_machine)
    return Profile.load(path, other_machine=arguments.other_machine).frontier(batch=arguments.batch)


def _trace(arguments: argparse.Namespace, frontier: Frontier) -> Trace:
    from precut.deadline import Trace, make_trace

    limits = arguments.deadlines_ms
    deadlines = None if limits is None else (limits[0] * 1e-3, limits[1] * 1e-3)
    if arguments.trace is not None:
        accuracies = {point.name: point.accuracy for point in frontier}
        trace = Trace.read(arguments.trace, accuracies)
        return trace if deadlines is None else trace.with_deadlines(*deadlines, seed=arguments.seed)
    return make_trace(
        frontier.points,
        arguments.requests,
        deadlines_s=deadlines or (1.2 * frontier.times[0], 1.5 * frontier.times[-1]),
        load=arguments.made,
        arrival=arguments.arrival,
        gap_s=arguments.gap_ms * 1e-3,
        slowdown=arguments.slowdown,
        phase_s=100 * arguments.gap_ms * 1e-3,
        batch=arguments.batch,
        seed=arguments.seed,
    )
