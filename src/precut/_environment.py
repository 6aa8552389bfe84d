"""What a number was measured on: machine, threads and versions. No result is written without these."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["cpu_flags", "cpu_model", "environment", "has_fast_bf16"]

_PACKAGES = ("precut", "torch", "numpy", "safetensors", "lightning-fabric")
# What operators are chosen by; the full list of flags would drown the reader.
_VECTOR_FLAGS = ("avx", "amx", "fma", "f16c", "asimd", "bf16", "i8mm", "sve")


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The conditions of a measurement, JSON-able; the number of threads is the current one.

    Args:
        device: where the work runs.

    Returns:
        ``python``; ``versions`` by package (None where absent); ``system``; ``cpu`` (model name); ``cpu_flags`` (vector
        extensions); ``cores`` (that this process may use) and ``machine_cores``; ``virtual`` (whether inside a virtual
        machine, None where unknown); ``threads`` (torch's); ``device`` ("cpu", or the accelerator's name);
        ``torch_config`` and ``torch_parallel`` (how torch was built and runs).
    """
    device = torch.device(device)
    flags = cpu_flags()
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_flags": sorted(flag for flag in flags if flag.startswith(_VECTOR_FLAGS)),
        "cores": _usable_cores(),
        "machine_cores": os.cpu_count(),
        # Only x86 tells; elsewhere the flag's absence says nothing.
        "virtual": "hypervisor" in flags if platform.machine() in ("x86_64", "AMD64") and flags else None,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch_config": torch.__config__.show().strip(),
        "torch_parallel": torch.__config__.parallel_info().strip(),
    }


def _usable_cores() -> int | None:
    """A container can leave a process fewer cores than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _version(name: str) -> str | None:
    # The imported module speaks first: run from a source tree, an installed copy of another version may lie beside it.
    loaded = getattr(sys.modules.get(name.replace("-", "_")), "__version__", None)
    if loaded is not None:
        return str(loaded)
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def _cpuinfo(path: str = "/proc/cpuinfo") -> dict[str, str]:
    """Fields of Linux's description of the processor; empty on other systems."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_model() -> str:
    """The processor's name."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """The processor's instruction sets as Linux names them; empty elsewhere."""
    found = _cpuinfo()
    return frozenset((found.get("flags") or found.get("Features") or "").split())


def has_fast_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
