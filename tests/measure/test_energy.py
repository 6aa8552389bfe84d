"""Energy counters against a made-up sysfs tree and a made-up NVML."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from precut.measure import EnergyCounter, energy_counters, measure_energy


class NVMLError(Exception):
    pass


def no_nvml() -> None:
    raise NVMLError("Driver Not Loaded")


NO_GPU = SimpleNamespace(nvmlInit=no_nvml, NVMLError=NVMLError)


def zone(root: Path, folder: str, name: str, microjoules: int, wraps_at: int = 262_143_328_850) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return path


@pytest.fixture
def machine(tmp_path):
    """Two packages with cores and memory, the whole platform, and a second view of the first package."""
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000, wraps_at=65_712_999_613)
    zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    zone(tmp_path, "intel-rapl:1:0", "dram", 2_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 20_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    (tmp_path / "dtpm").mkdir()
    return tmp_path


def test_counters_do_not_overlap(machine):
    counters, reasons = energy_counters(machine, NO_GPU)
    assert [counter.name for counter in counters] == ["package-0", "dram-0", "package-1", "dram-1"]
    assert [counter.read() for counter in counters] == [5.0, 1.0, 7.0, 2.0]
    assert reasons == ("NVML: Driver Not Loaded",)


def test_a_block_is_measured(machine):
    with measure_energy(powercap=machine, nvml=NO_GPU) as energy:
        (machine / "intel-rapl:0/energy_uj").write_text("6500000")
        (machine / "intel-rapl:1:0/energy_uj").write_text("2250000")
        assert energy.joules is None
    assert energy.joules == pytest.approx(1.75)
    assert energy.by_counter == pytest.approx({"package-0": 1.5, "dram-0": 0, "package-1": 0, "dram-1": 0.25})
    assert energy.seconds > 0
    assert str(energy).startswith("1.750 J in 0.0")
    assert "measured (package-0 1.500 J" in str(energy)
    assert energy.to_dict()["joules"] == energy.joules


def test_a_counter_that_wraps(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, wraps_at=10_000_000)
    with measure_energy(powercap=tmp_path, nvml=NO_GPU) as energy:
        (tmp_path / "intel-rapl:0/energy_uj").write_text("500000")
    assert energy.joules == pytest.approx(1.5)


def test_a_block_that_fails_is_still_measured(machine):
    with pytest.raises(KeyError), measure_energy(powercap=machine, nvml=NO_GPU) as energy:
        raise KeyError
    assert energy.joules == 0


def test_gpus():
    millijoules = {0: 1000, 1: 5000}
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: b"Made Up" if handle else "Made Up",
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: millijoules[handle],
    )
    with measure_energy(powercap="/nonexistent", nvml=nvml) as energy:
        millijoules[1] += 2500
    assert energy.by_counter == {"gpu-0 Made Up": 0, "gpu-1 Made Up": 2.5}
    assert energy.reasons == ("RAPL: no intel-rapl zones under /nonexistent",)


def test_not_available_says_why(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with measure_energy(powercap=tmp_path) as energy:
        pass
    assert energy.joules is None
    assert str(energy) == (
        f"not available (RAPL: no intel-rapl zones under {tmp_path}; NVML: the Python package nvidia-ml-py is not "
        "installed)"
    )


def test_a_zone_that_may_not_be_read(machine, monkeypatch):
    read = Path.read_text

    def refused(self, *args, **kwargs):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refused)
    counters, reasons = energy_counters(machine, NO_GPU)
    assert counters == []
    assert reasons[0] == (
        f"RAPL: no permission to read {machine}/intel-rapl:1:0/energy_uj; run as root, or let your user read it"
    )


def test_a_damaged_zone(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 0).joinpath("energy_uj").write_text("many")
    counters, reasons = energy_counters(tmp_path, NO_GPU)
    assert counters == []
    assert reasons[0] == (
        f"RAPL: {tmp_path}/intel-rapl:0/energy_uj cannot be read: invalid literal for int() with base 10: 'many'"
    )


def test_a_machine_without_gpus():
    nvml = SimpleNamespace(NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 0)
    assert energy_counters("/nonexistent", nvml)[1][1] == "NVML: no GPU"


def test_given_counters():
    readings = iter([1.0, 4.0])
    with measure_energy([EnergyCounter("meter", lambda: next(readings))]) as energy:
        pass
    assert energy.by_counter == {"meter": 3.0}
    with measure_energy([]) as energy:
        pass
    assert str(energy) == "not available (no counters were given)"
