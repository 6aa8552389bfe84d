"""What this machine and this installation offer: versions, processor, native library, energy counters, datasets."""

from __future__ import annotations

import argparse
import importlib.util
from importlib import metadata
from typing import Any

from precut.cli._show import show

__all__ = ["configure", "run"]

_OPTIONAL = ("datasets", "tensorboard", "torchvision", "timm")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root", metavar="FOLDER", help="where datasets lie (default: the environment variable PRECUT_DATA)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Looks at everything; nothing is imported that the core does not need."""
    from precut.data import list_datasets, locate
    from precut.measure import energy_counters, environment

    machine = environment()
    counters, reasons = energy_counters()
    data: dict[str, Any] = {
        **{key: value for key, value in machine.items() if not key.startswith("torch_")},
        "devices": _devices(),
        "native_library": _native(),
        "energy_counters": [counter.name for counter in counters],
        "energy_missing": list(reasons),
        "datasets": {name: locate(name, arguments.data_root) for name in list_datasets()},
        "optional": {name: _installed(name) for name in _OPTIONAL},
    }
    show(_text(data), data, arguments.json)


def _devices() -> list[str]:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["cpu", *names, *(["mps"] if torch.backends.mps.is_available() else [])]


def _native() -> dict[str, Any]:
    """Version and kernels of libprecut, or why there are none."""
    from precut import runtime
    from precut.errors import PrecutError

    try:
        rows = runtime.ops_table()
        usable = sum(row["runs_here"] == "yes" for row in rows)
        return {"found": True, "version": runtime.version(), "kernels": len(rows), "kernels_that_run_here": usable}
    except PrecutError as error:
        return {"found": False, "reason": str(error)}


def _installed(name: str) -> str | None:
    """The version of a package without importing it: a build that does not fit this torch would fail, or worse."""
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _text(data: dict[str, Any]) -> str:
    native = data["native_library"]
    threads, cores = data["threads"], data["cores"]
    virtual = {True: ", virtual machine", False: "", None: ""}[data["virtual"]]
    lines = [
        ("python", f"{data['python']} on {data['system']}"),
        *((name, version or "not installed") for name, version in data["versions"].items()),
        ("processor", f"{data['cpu']}, {cores} of {data['machine_cores']} cores usable{virtual}"),
        ("vector flags", " ".join(data["cpu_flags"]) or "unknown"),
        ("threads", f"{threads} (torch; --threads changes it)"),
        ("devices", ", ".join(data["devices"])),
        (
            "native library",
            f"{native['version']}, {native['kernels_that_run_here']} of {native['kernels']} kernels run here"
            if native["found"]
            else f"not found: {native['reason']}",
        ),
        (
            "energy",
            f"measured by {', '.join(data['energy_counters'])}"
            if data["energy_counters"]
            else f"not available ({'; '.join(data['energy_missing'])})",
        ),
        *((f"data {name}", place or "not on this disk") for name, place in data["datasets"].items()),
        *(
            (name, f"{version} (not imported)" if version else "not installed")
            for name, version in data["optional"].items()
        ),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines)
