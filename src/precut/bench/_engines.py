"""The engines that a network can be run by, each a row: what file it takes, and what must be installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from precut._registry import Registry
from precut.errors import PrecutError

__all__ = ["Engine", "deepsparse_python", "engines", "installed", "make_deepsparse"]

_DEEPSPARSE = "deepsparse==1.8.0"


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        worker: its function in _worker.py.
        file: the form of file that it takes: native, pt2, onnx, onnx17, int8 or ncnn.
        packages: modules that must be there.
        sparse: whether zeros make it faster, so that it is given every network and not the dense one alone.
        precision: of its arithmetic.
        extra: what pip installs.
    """

    worker: str
    file: str
    packages: tuple[str, ...]
    sparse: bool = False
    precision: str = "float32"
    extra: str = "bench"


engines: Registry[Engine] = Registry("engine", "precut bench --list")

engines.register("precut")(Engine("native", "native", (), sparse=True))
engines.register("torch")(Engine("torch_eager", "pt2", ("torch",)))
engines.register("torch.compile")(Engine("torch_compile", "pt2", ("torch",)))
engines.register("onnxruntime")(Engine("onnxruntime", "onnx", ("onnxruntime", "onnx", "onnxscript")))
engines.register("openvino")(Engine("openvino", "onnx", ("openvino", "onnx", "onnxscript")))
engines.register("ncnn")(Engine("ncnn", "ncnn", ("ncnn", "pnnx")))
engines.register("deepsparse")(Engine("deepsparse", "onnx17", ("onnx", "onnxscript"), sparse=True))
engines.register("onnxruntime int8")(
    Engine("onnxruntime", "int8", ("onnxruntime", "onnx", "onnxscript"), precision="int8")
)
engines.register("openvino int8")(
    Engine("openvino", "int8", ("openvino", "onnxruntime", "onnx", "onnxscript"), precision="int8")
)


def _deepsparse_home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "precut" / "deepsparse"


def deepsparse_python() -> Path | None:
    """The Python of the environment that DeepSparse lies in, or None while there is none.

    It needs old versions of ONNX and NumPy, hence an environment of its own. ``PRECUT_DEEPSPARSE_PYTHON`` names
    another one.
    """
    named = os.environ.get("PRECUT_DEEPSPARSE_PYTHON")
    path = Path(named) if named else _deepsparse_home() / "bin" / "python"
    return path if path.exists() else None


def make_deepsparse() -> Path:
    """Makes that environment (some 300 MB) and returns its Python."""
    found = deepsparse_python()
    if found is not None:
        return found
    if not (3, 8) <= sys.version_info[:2] <= (3, 11):
        version = ".".join(map(str, sys.version_info[:2]))
        raise PrecutError(
            f"{_DEEPSPARSE} exists for Python 3.8 to 3.11, and this is {version}; set PRECUT_DEEPSPARSE_PYTHON to the "
            "Python of an environment that has it"
        )
    home = _deepsparse_home()
    python = home / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _DEEPSPARSE]
    try:
        venv.create(home, with_pip=True, clear=True)
        subprocess.run(command, capture_output=True, text=True, check=True)
    except BaseException as error:
        shutil.rmtree(home, ignore_errors=True)  # half of it would count as installed
        if not isinstance(error, (OSError, subprocess.SubprocessError)):
            raise
        said = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
        lines = (said.decode(errors="replace") if isinstance(said, bytes) else said).strip().splitlines()
        raise PrecutError(f"{_DEEPSPARSE} could not be installed: {(lines or ['nothing was said'])[-1]}") from None
    return python


def installed(name: str) -> bool:
    """Whether an engine can run here."""
    if name == "deepsparse" and deepsparse_python() is None:
        return False
    if name == "precut":
        from precut.runtime import available

        return available()
    return all(importlib.util.find_spec(package) for package in engines[name].packages)
