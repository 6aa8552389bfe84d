"""Energy, measured where the machine has counters: RAPL for processors, NVML for NVIDIA GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["EnergyCounter", "EnergyReading", "energy_counters", "measure_energy"]

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyCounter:
    """One counter that only grows.

    Attributes:
        name: what it covers ("package-0", "dram-0", "gpu-0 NVIDIA ...").
        read: joules since some time past.
        wraps_at: joules after which it begins at 0 again; None if it does not.
    """

    name: str
    read: Callable[[], float]
    wraps_at: float | None = None

    def between(self, before: float, after: float) -> float:
        """Joules from one reading to a later one, across at most one wrap."""
        if after >= before or self.wraps_at is None:
            return after - before
        return after - before + self.wraps_at


@dataclass
class EnergyReading:
    """What ``measure_energy`` measured; filled when its block ends. ``str()`` says joules, or why there are none.

    Attributes:
        joules: the sum over all counters, idle power included; None where it is not available.
        by_counter: counter name to joules.
        seconds: of the block.
        reasons: why counters are missing, one for each kind.
    """

    joules: float | None = None
    by_counter: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.joules is None:
            return f"not available ({'; '.join(self.reasons)})"
        parts = ", ".join(f"{name} {joules:.3f} J" for name, joules in self.by_counter.items())
        return f"{self.joules:.3f} J in {self.seconds:.3f} s, measured ({parts})"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "joules": self.joules,
            "by_counter": dict(self.by_counter),
            "seconds": self.seconds,
            "reasons": list(self.reasons),
        }


def _rapl(root: Path) -> tuple[list[EnergyCounter], str]:
    # Zones: intel-rapl:0 is a package (AMD's have the same name), intel-rapl:0:1 a part of it. Cores and uncore are
    # inside the package's number; memory is not; "psys" is all of the above again, and intel-rapl-mmio a second view.
    counters = []
    unreadable = ""
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
        except OSError:
            continue
        if not name.startswith(("package", "dram")):
            continue
        source = zone / "energy_uj"
        try:
            int(source.read_text())
            wraps_at = int((zone / "max_energy_range_uj").read_text()) * 1e-6
        except PermissionError:
            unreadable = f"RAPL: no permission to read {source}; run as root, or let your user read it"
            continue
        except (OSError, ValueError) as error:
            unreadable = f"RAPL: {source} cannot be read: {error}"
            continue
        label = name if name.startswith("package") else f"{name}-{zone.name.split(':')[1]}"
        counters.append(EnergyCounter(label, lambda source=source: int(source.read_text()) * 1e-6, wraps_at))  # type: ignore[misc]
    if counters:
        return counters, ""
    return [], unreadable or f"RAPL: no intel-rapl zones under {root}"


def _nvml(library: Any) -> tuple[list[EnergyCounter], str]:
    if library is None:
        try:
            import pynvml as library  # type: ignore[no-redef]
        except ImportError:
            return [], "NVML: the Python package nvidia-ml-py is not installed"
    try:
        library.nvmlInit()
        counters = []
        for index in range(library.nvmlDeviceGetCount()):
            handle = library.nvmlDeviceGetHandleByIndex(index)
            library.nvmlDeviceGetTotalEnergyConsumption(handle)
            name = library.nvmlDeviceGetName(handle)
            label = f"gpu-{index} {name.decode() if isinstance(name, bytes) else name}"

            def read(handle: Any = handle) -> float:
                return float(library.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3

            counters.append(EnergyCounter(label, read))
    except library.NVMLError as error:
        return [], f"NVML: {error}"
    return counters, "" if counters else "NVML: no GPU"


def energy_counters(powercap: str | Path = POWERCAP, nvml: Any = None) -> tuple[list[EnergyCounter], tuple[str, ...]]:
    """The machine's energy counters, and a reason for each kind that it lacks.

    Args:
        powercap: the kernel's folder of power zones; another for tests.
        nvml: a module with NVML's Python interface; by default ``pynvml``, if installed.

    Returns:
        Counters of processor packages, memory and GPUs that do not overlap; reasons for absent kinds.
    """
    found = (_rapl(Path(powercap)), _nvml(nvml))
    return [counter for counters, _ in found for counter in counters], tuple(reason for _, reason in found if reason)


@contextmanager
def measure_energy(
    counters: Sequence[EnergyCounter] | None = None, powercap: str | Path = POWERCAP, nvml: Any = None
) -> Iterator[EnergyReading]:
    """Measures the energy of a ``with`` block, of the whole machine, idle power included::

        with precut.measure.measure_energy() as energy:
            ...
        print(energy)  # "12.345 J in 1.000 s, measured (package-0 12.345 J)", or "not available (why)"

    Counters tick about every millisecond: give the block at least a second. A counter that wraps twice within the block
    (hours for packages) reads too little.

    Args:
        counters: which to read; by default all of ``energy_counters(powercap, nvml)``.
        powercap, nvml: as in ``energy_counters``.
    """
    reading = EnergyReading()
    if counters is None:
        counters, reading.reasons = energy_counters(powercap, nvml)
    elif not counters:
        reading.reasons = ("no counters were given",)
    before = [counter.read() for counter in counters]
    start = time.perf_counter()
    try:
        yield reading
    finally:
        reading.seconds = time.perf_counter() - start
        after = [counter.read() for counter in counters]
        for counter, first, last in zip(counters, before, after, strict=True):
            reading.by_counter[counter.name] = counter.between(first, last)
        if counters:
            reading.joules = sum(reading.by_counter.values())
