"""A run's folder: what lies in it, whether it may be begun, gone on with or written over."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from precut._files import atomic_write
from precut.errors import PrecutError

__all__ = ["COLUMNS", "RunFolder", "TensorBoard"]

COLUMNS = ("epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")


class RunFolder:
    """The files of one run.

    ``config.json``: everything that decides the result. ``env.json``: the conditions. ``state.safetensors``: where to
    go on. ``best.safetensors``: the best epoch's weights. ``metrics.csv``: a row an epoch. ``clock.json``: seconds
    spent in the epoch that was interrupted. ``model.safetensors``, then ``result.json``: written at the end.

    Args:
        path: the folder; made when the run begins.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.env = self.path / "env.json"
        self.state = self.path / "state.safetensors"
        self.best = self.path / "best.safetensors"
        self.metrics = self.path / "metrics.csv"
        self.clock = self.path / "clock.json"
        self.model = self.path / "model.safetensors"
        self.result = self.path / "result.json"

    def recorded_threads(self) -> int | None:
        """The number of threads that the run began with."""
        return self._json(self.config).get("threads") if self.config.is_file() else None

    def check(self, config: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        """Raise a PrecutError unless the run may be begun (or gone on with, if ``resume``) with this ``config``."""
        if self.path.exists() and not self.path.is_dir():
            raise PrecutError(f"run_dir {str(self.path)!r} is a file; expected a folder")
        if overwrite and resume:
            raise PrecutError("fit got resume=True and overwrite=True; choose one")
        if overwrite or not self.config.is_file():
            return
        if not resume:
            kind = "a finished run" if self.result.is_file() else "an unfinished run"
            advice = "returns its result" if self.result.is_file() else "goes on with it"
            raise PrecutError(
                f"{str(self.path)!r} holds {kind}: resume=True {advice}, overwrite=True begins anew, "
                "or choose another run_dir"
            )
        recorded, given = _flat(self._json(self.config)), _flat(config)
        for name in [*given, *(name for name in recorded if name not in given)]:
            if recorded.get(name) != given.get(name):
                raise PrecutError(
                    f"cannot resume {str(self.path)!r}: {name} is {given.get(name)!r} here, but the run began with "
                    f"{recorded.get(name)!r}; pass the same value, or overwrite=True to begin anew"
                )

    def begin(self, config: Mapping[str, Any], environment: Mapping[str, Any], overwrite: bool) -> str | None:
        """Prepare the folder. Returns a remark if the run began under other conditions."""
        remark = None
        files = (self.result, self.model, self.state, self.best, self.metrics, self.clock, self.config, self.env)
        if overwrite:
            for file in (*files, *self.path.glob("tensorboard/events.out.tfevents.*")):
                file.unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        for file in files:
            for stray in self.path.glob(f".{file.name}.*.tmp"):  # a killed process left it
                stray.unlink(missing_ok=True)
        if self.env.is_file():
            before = self._json(self.env)
            for name in ("cpu", "versions", "device"):
                if before.get(name) != environment.get(name):
                    remark = (
                        f"this run began with {name} {before.get(name)}, now {environment.get(name)}: it goes on, "
                        "but not bit for bit as it would have there"
                    )
        else:
            self._write_json(self.env, environment)
        self._write_json(self.config, config)
        return remark

    def finished(self) -> dict[str, Any] | None:
        """What ``result.json`` holds, or None while there is none."""
        return self._json(self.result) if self.result.is_file() else None

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``: the run is finished."""
        self._write_json(self.result, result)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write ``metrics.csv`` anew."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if row[name] is None else row[name] for name in COLUMNS} for row in rows)
        atomic_write(self.metrics, text.getvalue())

    def read_seconds(self) -> dict[int, float]:
        """Epoch -> seconds, from ``metrics.csv``. Times are not in the checkpoint, which is the same however long it
        took."""
        if not self.metrics.is_file():
            return {}
        with self.metrics.open(newline="") as file:
            return {int(row["epoch"]): float(row["seconds"]) for row in csv.DictReader(file)}

    def write_clock(self, step: int, seconds: float) -> None:
        """Note the seconds that the current epoch has taken up to ``step``."""
        self._write_json(self.clock, {"step": step, "seconds": seconds})

    def read_clock(self, step: int) -> float:
        """The seconds noted at ``step``, 0 if there is no such note."""
        noted = self._json(self.clock) if self.clock.is_file() else {}
        return float(noted["seconds"]) if noted.get("step") == step else 0.0

    def _write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        atomic_write(path, json.dumps(content, indent=2) + "\n")

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise PrecutError(f"{str(path)!r} is not valid JSON: {error}") from None
        if not isinstance(content, dict):
            raise PrecutError(f"{str(path)!r} holds a {type(content).__name__}; expected an object")
        return content


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


class TensorBoard:
    """Writes the epochs' rows for TensorBoard into ``folder``, if the package is installed.

    Args:
        folder: where the event files go.
        next_step: on resuming, the step to go on from; what was logged after it is dropped.
    """

    def __init__(self, folder: Path, next_step: int) -> None:
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its own imports are out of date now and then
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(folder), purge_step=next_step if next_step else None)

    def add(self, row: Mapping[str, Any]) -> None:
        """One epoch's row."""
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("epoch", "step") and value is not None:
                    self._writer.add_scalar(name, value, row["step"])
            self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
