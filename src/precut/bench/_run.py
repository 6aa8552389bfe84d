"""Every engine on the same networks, in turns."""

from __future__ import annotations

import importlib.util
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from precut._environment import environment
from precut._files import atomic_write
from precut.bench._engines import deepsparse_python, engines, installed
from precut.bench._forms import FORMS
from precut.bench._process import EngineProcess
from precut.errors import PrecutError, whole
from precut.measure import Ratio, paired_ratio, summary
from precut.report import Column, Table, duration, pareto_plot, si

__all__ = ["Bench", "bench"]

_CLAIM_ROUNDS = 30


@dataclass(frozen=True)
class Bench:
    """Times of every engine and network, taken in turns; ``str()`` is a table.

    Attributes:
        seconds: (engine, network) to one time a round, the median of that round's calls.
        errors: (engine, network) to the largest difference to torch, over the largest output.
        versions: engine to version.
        macs: network to multiply-adds an image.
        failed: "engine network" to why it did not run.
        baseline: the fastest engine other than precut, in float32 on the first network.
        dense: the first network.
        batch, threads, environment: the conditions.
    """

    seconds: dict[tuple[str, str], list[float]]
    errors: dict[tuple[str, str], float]
    versions: dict[str, str]
    macs: dict[str, int]
    failed: dict[str, str]
    dense: str
    batch: int
    threads: int
    environment: dict[str, Any] = field(repr=False)

    @property
    def baseline(self) -> tuple[str, str] | None:
        rivals = [
            key
            for key in self.seconds
            if key[0] != "precut" and key[1] == self.dense and engines[key[0]].precision == "float32"
        ]
        return min(rivals, key=lambda key: float(np.median(self.seconds[key])), default=None)

    def ratio(self, key: tuple[str, str], over: tuple[str, str]) -> Ratio:
        """How many times faster than another; its ``low`` is what may be claimed."""
        return paired_ratio(self.seconds[over], self.seconds[key])

    def table(self) -> Table:
        """One row for each engine and network, fastest last of each engine."""
        baseline, own = self.baseline, ("precut", self.dense)
        rows = []
        for key, times in self.seconds.items():
            against = None if baseline is None or key == baseline else self.ratio(key, baseline)
            ours = self.ratio(key, own) if own in self.seconds and key != own else None
            rows.append(
                {
                    "engine": key[0],
                    "network": key[1],
                    "macs": self.macs[key[1]],
                    "median": float(np.median(times)),
                    "images": self.batch / float(np.median(times)),
                    "speedup": 1.0 if key == baseline else against and against.ratio,
                    "low": against and against.low,
                    "high": against and against.high,
                    "own": 1.0 if key == own else ours and ours.ratio,
                    "error": self.errors[key],
                }
            )
        columns = [
            Column("engine", align="left"),
            Column("network", align="left"),
            Column("macs", "counted MACs", si, "right"),
            Column("median", format=duration, align="right"),
            Column("images", "images/s", ".0f", "right"),
            Column("speedup", format=".2f", align="right"),
            Column("low", "90 % low", ".2f", "right"),
            Column("high", "90 % high", ".2f", "right"),
            Column("own", "over own dense", ".2f", "right"),
            Column("error", format=".0e", align="right"),
        ]
        rounds = len(next(iter(self.seconds.values())))
        where = self.environment
        names = (
            "no other engine" if baseline is None else f"{baseline[0]} on {baseline[1]}, the fastest f32 dense engine"
        )
        notes = [
            f"measured: speedup over {names}; {rounds} interleaved rounds, a process for each engine, stopped between its "
            f"turns; batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}, {where['cpu']}",
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            *(f"did not run: {what}: {why}" for what, why in self.failed.items()),
        ]
        if rounds < _CLAIM_ROUNDS:
            notes.append(f"fewer than {_CLAIM_ROUNDS} rounds: no claim")
        return Table(rows, columns, notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; the rows of the table, and the raw times."""
        rows = [
            row | {"seconds": times}
            for row, times in zip(self.table().to_dict()["rows"], self.seconds.values(), strict=True)
        ]
        return {
            "rows": rows,
            "baseline": self.baseline,
            **{key: getattr(self, key) for key in ("versions", "failed", "batch", "threads", "environment")},
        }

    def write(self, folder: Path, name: str) -> list[Path]:
        """Table, CSV, JSON (with the raw times) and, where matplotlib is there, a picture, as ``folder/name.*``."""
        table = self.table()
        written = [
            atomic_write(folder / f"{name}.md", table.to_markdown()),
            atomic_write(folder / f"{name}.csv", table.to_csv()),
            atomic_write(folder / f"{name}.json", self.to_json()),
        ]
        if importlib.util.find_spec("matplotlib"):
            title = f"batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}, {self.environment['cpu']}"
            picture = folder / f"{name}.png"
            labels = {"x_label": "multiply-adds of an image (counted)", "y_label": "images a second (measured)"}
            pareto_plot(
                table.rows,
                picture,
                x="macs",
                y="images",
                label="network",
                group="engine",
                title=title,
                log_x=True,
                **labels,
            )
            written.append(picture)
        return written

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)


def bench(
    networks: Mapping[str, nn.Module],
    x: torch.Tensor,
    threads: int = 1,
    only: Iterable[str] | None = None,
    rounds: int = 40,
    calls: int = 2,
    seconds: float = 0.05,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Bench:
    """Times networks in every engine that is installed, in interleaved rounds.

    Each engine and network has a process of its own, stopped while others have their turn. Engines that gain from zeros
    (precut, DeepSparse) run every network; the others run the first one, the dense network.

    Args:
        networks: name to model; the first is the dense one.
        x: a float32 batch of images (N, C, H, W).
        threads: of each engine.
        only: names of engines (``precut.bench.engines``); by default all that are installed.
        rounds: one or more; at least 30 for a claim.
        calls, seconds: of each in a round, at least; one call or more.
        seed: of the order in the rounds.
        progress: called with a line on what is being done.

    Raises:
        PrecutError: an unknown engine or one that is not installed, an engine that gives other outputs than torch, or
            no engine that runs.
    """
    if not networks:
        raise PrecutError("bench takes {name: model} with at least one model")
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32 or x.ndim != 4 or not x.numel():
        shown = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise PrecutError(f"bench takes a float32 tensor of images (N, C, H, W) as x; got {shown}")
    whole("threads", threads)
    whole("rounds", rounds)
    whole("calls", calls)
    names = [name for name in engines if installed(name)] if only is None else list(only)
    for name in names:
        entry = engines[name]
        if not installed(name):
            need = (
                "precut bench --install-deepsparse" if name == "deepsparse" else f"pip install 'precut[{entry.extra}]'"
            )
            raise PrecutError(f"the engine {name!r} is not installed here: {need}")
    say = progress or (lambda line: None)
    dense = next(iter(networks))
    running: dict[tuple[str, str], EngineProcess] = {}
    failed: dict[str, str] = {}
    errors: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory(prefix="precut-bench-") as scratch:
        try:
            given = Path(scratch) / "x.npy"
            np.save(given, x.numpy())
            for number, (network, model) in enumerate(networks.items()):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                with torch.no_grad():
                    expected = model.eval()(x).numpy()
                for name in names:
                    if network != dense and not engines[name].sparse:
                        continue
                    say(f"preparing {name} on {network}")
                    key = (name, network)
                    try:
                        running[key] = _start(name, network, model, x, folder, given, threads)
                        errors[key] = _check(running[key], expected, folder, engines[name].precision)
                    except PrecutError as error:
                        failed[f"{name} {network}"] = str(error)
                        if key in running:
                            running.pop(key).close()
            if not running:
                raise PrecutError(f"no engine ran: {failed}")
            times = _rounds(running, failed, rounds, calls, seconds, seed, say)
            versions = {name: process.version for (name, _), process in running.items()}
        finally:
            for process in running.values():
                process.close()
    macs = {name: summary(model, x[:1]).macs for name, model in networks.items()}
    return Bench(times, errors, versions, macs, failed, dense, len(x), threads, environment())


def _start(
    name: str, network: str, model: nn.Module, x: torch.Tensor, folder: Path, given: Path, threads: int
) -> EngineProcess:
    engine = engines[name]
    try:
        path = FORMS[engine.file](model, x, folder)
    except PrecutError:
        raise
    except Exception as error:  # exporters fail in ways of their own; the other engines go on
        raise PrecutError(f"the network could not be converted: {type(error).__name__}: {str(error)[:200]}") from error
    python = deepsparse_python() if name == "deepsparse" else None
    return EngineProcess(f"{name} on {network}", engine.worker, path, given, threads, python)


def _check(process: EngineProcess, expected: np.ndarray[Any, Any], folder: Path, precision: str) -> float:
    found = process.output(folder / "y.npy")
    if found.size != expected.size:
        raise PrecutError(f"its output has the shape {found.shape}, torch's {expected.shape}")
    found = found.reshape(expected.shape)
    error = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    # An engine that computes something else is no rival; 8 bits calibrated on noise differ by right.
    if precision == "float32" and not error < 1e-3:
        raise PrecutError(f"its outputs differ from torch's by {error:.1e} of the largest")
    return error


def _rounds(
    running: dict[tuple[str, str], EngineProcess],
    failed: dict[str, str],
    rounds: int,
    calls: int,
    seconds: float,
    seed: int,
    say: Callable[[str], None],
) -> dict[tuple[str, str], list[float]]:
    times: dict[tuple[str, str], list[float]] = {key: [] for key in running}
    order = list(running)
    shuffle = random.Random(seed).shuffle
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        shuffle(order)
        for key in list(order):
            try:
                times[key].append(running[key].time(calls, seconds))
            except PrecutError as error:  # the other engines go on
                failed[" ".join(key)] = str(error)
                say(failed[" ".join(key)])
                running.pop(key).close()
                order.remove(key)
                del times[key]
        if not running:
            raise PrecutError(f"no engine is left: {failed}")
    return times
