"""Engines in processes of their own, told to run in turns."""

import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import precut
from precut.bench import Engine, _engines, _networks, _run, bench, chained, engines, layer_chain, network, registered
from precut.bench import _forms as forms
from precut.bench._process import EngineProcess
from precut.measure import paired_ratio, summary

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
native = pytest.mark.skipif(not precut.runtime.available(), reason="no native library")


@native
def test_two_engines_and_a_support(tmp_path: Path) -> None:
    dense = precut.create_model("resnet8").eval()
    lines: list[str] = []
    found = bench(
        {"dense": dense, "PS4_P4": precut.sparsify(dense, "PS4_P4")}, X, only=["precut", "torch"], rounds=3, seconds=0.001,
        progress=lines.append,
    )  # fmt: skip
    assert list(found.seconds) == [("precut", "dense"), ("torch", "dense"), ("precut", "PS4_P4")]  # torch gains nothing
    assert all(len(times) == 3 and min(times) > 0 for times in found.seconds.values())
    assert max(found.errors.values()) < 1e-4
    assert found.baseline == ("torch", "dense")
    key = ("precut", "PS4_P4")
    assert found.ratio(key, found.baseline) == paired_ratio(found.seconds["torch", "dense"], found.seconds[key])
    assert found.macs["dense"] == summary(dense, X).macs > found.macs["PS4_P4"]
    assert "no claim" in str(found)
    assert lines[-1] == "round 3 of 3"
    written = found.write(tmp_path, "r")
    assert {path.name for path in written} >= {"r.md", "r.csv", "r.json"}
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 4


def test_a_rival_that_computes_something_else_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: torch.nn.Module, x: torch.Tensor, folder: Path) -> Path:
        (folder / "other").mkdir()
        return forms._pt2(precut.create_model("resnet8").eval(), x, folder / "other")

    monkeypatch.setitem(forms.FORMS, "other", other)
    monkeypatch.setitem(engines._entries, "other", Engine("torch_eager", "other", ()))
    found = bench({"dense": precut.create_model("resnet8").eval()}, X, only=["torch", "other"], rounds=1, seconds=0.0)
    assert list(found.seconds) == [("torch", "dense")]
    assert "its outputs differ from torch's by" in found.failed["other dense"]


def test_an_engine_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(forms.FORMS, "none", lambda model, x, folder: folder / "absent.pt2")
    monkeypatch.setitem(engines._entries, "none", Engine("torch_eager", "none", ()))
    with pytest.raises(precut.PrecutError, match="the engine none on dense ended"):
        bench({"dense": precut.create_model("resnet8")}, X, only=["none"], rounds=1)


def test_wrong_uses() -> None:
    with pytest.raises(precut.PrecutError, match=r"^unknown engine 'openvin': did you mean 'openvino'\?$"):
        bench({"dense": precut.create_model("resnet8")}, X, only=["openvin"])
    with pytest.raises(precut.PrecutError, match=r"^bench takes \{name: model\} with at least one model$"):
        bench({}, X)
    with pytest.raises(precut.PrecutError, match=r"as x; got torch.float64 of shape \(1, 3, 32, 32\)$"):
        bench({"dense": precut.create_model("resnet8")}, X.double())
    for name in ("rounds", "calls", "threads"):
        with pytest.raises(precut.PrecutError, match=f"^{name} must be a whole number of at least 1; got 0$"):
            bench({"dense": precut.create_model("resnet8")}, X, only=["torch"], **{name: 0})
    with pytest.raises(precut.PrecutError, match=r"^width_mult is set by a network's name \(width:0.5\)"):
        registered("resnet8", width_mult=0.5)


def test_networks_that_no_engine_takes_have_folders_of_their_own() -> None:
    chain = layer_chain("4-4@4")
    x = torch.zeros(1, 4, 4, 4)
    found = bench({"dense": chain, "a": chain, "b": chain}, x, only=["torch"], rounds=1, seconds=0.0)
    assert list(found.seconds) == [("torch", "dense")]


def test_networks_by_name() -> None:
    build = registered("resnet8", num_classes=10)

    def make(name: str) -> torch.nn.Module:
        return network(name, build, X, 1, lambda line: None)[1]

    dense = summary(make("dense"), X)
    masked = summary(make("mask:0.25"), X)
    convolutions = [row for row in dense.layers if row.op == "conv2d" and row.params == row.params_dense]
    assert convolutions
    assert masked.macs_dense == dense.macs
    assert 0.2 * dense.macs < masked.macs < 0.5 * dense.macs
    assert summary(make("width:0.5"), X).macs < 0.35 * dense.macs
    assert summary(make("PS4_P4"), X).macs < dense.macs
    for name in ("synflow:0.1", "erk:0.1"):
        pruned = summary(make(name), X)
        kept = sum(row.weights for row in pruned.layers if row.op in ("conv2d", "linear"))
        assert kept == math.ceil(0.1 * sum(row.weights for row in dense.layers if row.op in ("conv2d", "linear")))
    for name in ("mask:2", "width:zero", "synflow:1.1", "erk:"):
        with pytest.raises(precut.PrecutError, match="takes a number above 0"):
            make(name)


@native
@pytest.mark.parametrize(
    ("wanted", "width"), [(0.5, 22 / 32), (0.25, 16 / 32), (2.0, 31 / 32), (0.001, 1 / 32), (1e-4, 1 / 32)]
)
def test_the_widest_that_is_fast_enough(wanted: float, width: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which a network takes the square of its width."""

    def compare(rivals: dict[str, object], *given: object) -> SimpleNamespace:
        def takes(name: str) -> float:
            return wanted if name == "model" else (int(name) / 32) ** 2

        return SimpleNamespace(seconds={name: [takes(name)] for name in rivals})

    monkeypatch.setattr(_networks, "compare_latency", compare)
    shown, model = network("narrow:PS1_P8", registered("resnet8"), X, 1, lambda line: None)
    assert shown == f"width:{width:.3g}=PS1_P8"
    assert summary(model, X).macs == summary(precut.create_model("resnet8", width_mult=width), X).macs


@pytest.mark.parametrize(("text", "shape", "count"), [("16@8", (1, 16, 8, 8), 6), ("16-32@8", (1, 32, 4, 4), 1)])
def test_layer_chains(text: str, shape: tuple[int, ...], count: int) -> None:
    chain = layer_chain(text)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in chain) == count
    assert chain(torch.zeros(1, 16, 8, 8)).shape == shape


def test_every_layer_of_a_chain_is_sparse() -> None:
    x = torch.zeros(1, 16, 8, 8)
    chain = network("PS4_P4", lambda width: layer_chain("16@8"), x, 1, lambda line: None)[1]
    assert summary(chain, x).macs == 6 * 16 * 16 * 4 * 64


@pytest.mark.parametrize("name", ["width:0.5", "narrow:dense"])
def test_a_layer_chain_has_one_width(name: str) -> None:
    with pytest.raises(precut.PrecutError, match=r"^width: and narrow: are for models; the chain 4-4@4 has"):
        network(name, chained("4-4@4"), torch.zeros(1, 4, 4, 4), 1, lambda line: None)


def test_layer_chains_refuse() -> None:
    for text in ("64@0", "0@8", "8-0@8"):
        with pytest.raises(precut.PrecutError, match=f"^a layer is written like .* got '{text}'$"):
            layer_chain(text)
    with pytest.raises(
        precut.PrecutError, match=r"^a layer is written like 64@32 or, with stride 2, 64-128@32; got '64x32'$"
    ):
        layer_chain("64x32")


def test_worker_needs_no_precut() -> None:
    """DeepSparse's environment has none."""
    source = Path(precut.bench.__file__).with_name("_worker.py").read_text()
    tops = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not any("precut" in line for line in tops)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(engines))
def test_every_engine_that_is_installed(name: str) -> None:
    if not precut.bench.installed(name):
        pytest.skip("not installed")
    found = bench({"dense": precut.create_model("resnet8").eval()}, X, only=[name], rounds=2)
    assert not found.failed
    assert np.isfinite(found.errors[name, "dense"])


def test_an_engine_that_dies_between_turns_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[EngineProcess] = []
    begin = _run._start

    def start(*arguments: object) -> EngineProcess:
        started.append(begin(*arguments))
        return started[-1]

    def say(line: str) -> None:
        if line == "round 2 of 3":
            started[1]._process.kill()
            started[1]._process.wait()

    monkeypatch.setattr(_run, "_start", start)
    monkeypatch.setitem(engines._entries, "other", Engine("torch_eager", "pt2", ()))
    dense = precut.create_model("resnet8").eval()
    found = bench({"dense": dense}, X, only=["torch", "other"], rounds=3, seconds=0.0, progress=say)
    assert {key: len(times) for key, times in found.seconds.items()} == {("torch", "dense"): 3}
    assert found.failed["other dense"].startswith("the engine other on dense ended")
    assert all(process._process.poll() is not None for process in started)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux")
def test_stopped_engines_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
import numpy as np, torch
import precut
from precut.bench import _forms
from precut.bench._process import EngineProcess
folder = Path(sys.argv[1])
x = torch.zeros(1, 3, 32, 32)
np.save(folder / "x.npy", x.numpy())
path = _forms.FORMS["pt2"](precut.create_model("resnet8").eval(), x, folder)
engine = EngineProcess("torch", "torch_eager", path, folder / "x.npy", 1)
print(engine._process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":  # ended; nobody has asked after it yet
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_half_an_environment_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PRECUT_DEEPSPARSE_PYTHON", raising=False)
    monkeypatch.setattr(_engines.sys, "version_info", (3, 11, 0))

    def half(home: Path, **options: object) -> None:
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
        (home / "bin" / "python").chmod(0o755)

    monkeypatch.setattr(_engines.venv, "create", half)
    with pytest.raises(precut.PrecutError, match="could not be installed: "):
        _engines.make_deepsparse()
    assert _engines.deepsparse_python() is None


def test_masks_leave_the_layers_dense_that_supports_do() -> None:
    network_of = {
        name: network(name, registered("resnet8", in_channels=4), torch.zeros(1, 4, 32, 32), 1, print)[1]
        for name in ("mask:0.5", "PS4_P4")
    }
    sparse = {
        name: [layer for layer, module in net.named_modules() if hasattr(module, "support")]
        for name, net in network_of.items()
    }
    assert sparse["mask:0.5"] == sparse["PS4_P4"]
    chain = network("mask:0.5", chained("3@8"), torch.zeros(1, 3, 8, 8), 1, print)[1]
    assert sum(hasattr(module, "support") for module in chain) == sum(hasattr(m, "weight") for m in chain)
