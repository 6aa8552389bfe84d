"""The conditions of a measurement, on this machine and on others' descriptions of theirs."""

import json
import os
import platform

import pytest
import torch

import precut
from precut import _environment
from precut.measure import environment


def test_this_machine():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["precut"] == precut.__version__
    assert found["threads"] == torch.get_num_threads()
    assert 1 <= found["cores"] <= found["machine_cores"] == os.cpu_count()
    assert found["cpu"]
    assert found["device"] == "cpu"


def test_threads_are_the_current_ones():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert environment()["threads"] == 3
    finally:
        torch.set_num_threads(before)


INTEL = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu sse2 avx2 avx512f amx_bf16 hypervisor\n\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd bf16 i8mm\nCPU part\t: 0xd40\n\n"


@pytest.mark.parametrize(
    ("text", "machine", "cpu", "flags", "virtual"),
    [
        (INTEL, "x86_64", "Intel(R) Xeon(R)", ["amx_bf16", "avx2", "avx512f"], True),
        (INTEL.replace(" hypervisor", ""), "x86_64", "Intel(R) Xeon(R)", ["amx_bf16", "avx2", "avx512f"], False),
        (ARM, "aarch64", "aarch64", ["asimd", "bf16", "i8mm"], None),
        ("", "arm64", "arm64", [], None),
    ],
)
def test_other_machines(text, machine, cpu, flags, virtual, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    parse = _environment._cpuinfo.__wrapped__
    monkeypatch.setattr(_environment, "_cpuinfo", lambda: parse(str(path)))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "processor", lambda: "")
    found = environment()
    assert (found["cpu"], found["cpu_flags"], found["virtual"]) == (cpu, flags, virtual)
    assert _environment.has_fast_bf16(torch.device("cpu")) == bool({"amx_bf16", "bf16"} & set(flags))


def test_without_cpuinfo(tmp_path):
    assert _environment._cpuinfo(str(tmp_path / "missing")) == {}
