"""An engine's process: started, asked, and stopped between its turns so that its threads cannot spin beside others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np

from precut.errors import PrecutError

__all__ = ["EngineProcess"]

_WORKER = Path(__file__).with_name("_worker.py")


class EngineProcess:
    """One network in one engine. Between calls the process is stopped (SIGSTOP).

    Args:
        name: for messages.
        worker: the engine's function in _worker.py.
        model, given: the network's file and the input's .npy file.
        threads: of the engine.
        python: the interpreter; this one by default.
    """

    def __init__(
        self, name: str, worker: str, model: Path, given: Path, threads: int, python: Path | None = None
    ) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment.pop("PRECUT_OPS", None)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [str(python or sys.executable), str(_WORKER), worker, str(model), str(given), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.version = str(self._answer()["version"])
        self._process.send_signal(signal.SIGSTOP)

    def time(self, calls: int, seconds: float) -> float:
        """Median seconds of a forward over at least so many calls and seconds."""
        return float(np.median(self._ask({"do": "time", "calls": calls, "seconds": seconds})["seconds"]))

    def output(self, path: Path) -> np.ndarray[Any, Any]:
        """What the network gives for the input."""
        self._ask({"do": "output", "path": str(path)})
        return cast("np.ndarray[Any, Any]", np.load(path))

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):  # a question that never went out
                    stream.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        answer = self._answer()
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return cast("dict[str, Any]", json.loads(line))
        raise self._ended()

    def _ended(self) -> PrecutError:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines() or ["nothing was said"]
        self.close()
        return PrecutError(f"the engine {self.name} ended (exit code {code}): {said[-1][:300]}")
