"""Sparse layers under torch.compile and torch.export: one opaque operator each, which decomposes."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from precut.layers import SparseConv2d, SparseLinear
from precut.supports import Unstructured
from supports.examples import random_mask

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")  # torch's own use of what it deprecates

SUPPORTS = ["PSD4_P8", "pSC2", Unstructured(random_mask((12, 8, 3, 3)))]


def network(support: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        SparseConv2d(8, 12, 3, padding="same", support=support),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        SparseLinear(12, 4, support="2:4"),
    )


def images(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))


def check_compiled(support: Any, backend: str, tolerance: dict[str, float]) -> None:
    """Outputs and gradients of the compiled network, at two batch sizes, in one graph without breaks."""
    torch.compiler.reset()
    plain = network(support)
    compiled = torch.compile(copy.deepcopy(plain), backend=backend, fullgraph=True)
    for batch in (4, 6, 7):
        output, expected = compiled(images(batch)), plain(images(batch))
        torch.testing.assert_close(output, expected, **tolerance)
        output.square().sum().backward()
        expected.square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **tolerance)
    compiled.eval()
    plain.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(2)), plain(images(2)), **tolerance)


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_compile_traces_without_breaks(support: Any) -> None:
    check_compiled(support, "aot_eager", {"rtol": 1e-5, "atol": 1e-6})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_compile_with_inductor(support: Any) -> None:
    check_compiled(support, "inductor", {"rtol": 1e-3, "atol": 1e-4})


def test_compile_of_the_dense_copy() -> None:
    torch.compiler.reset()
    layer = SparseConv2d(8, 12, 3, support="PSD4_P8")
    squares = torch.compile(lambda: layer.dense_weight().square().sum(), backend="aot_eager", fullgraph=True)
    (gradient,) = torch.autograd.grad(squares(), layer.weight)
    torch.testing.assert_close(gradient, 2 * layer.weight)


def operators_of(program: Any) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_export_keeps_one_operator_a_layer_which_decomposes(support: Any) -> None:
    model = network(support).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(),), dynamic_shapes=({0: batch},))
    names = operators_of(program)
    assert names.count("precut.sparse_conv2d.default") == 1
    assert names.count("precut.sparse_linear.default") == 1
    assert not any("expand" in name for name in names)
    lowered = program.run_decompositions()
    names = operators_of(lowered)
    assert names.count("precut.expand.default") == 2
    assert names.count("aten.convolution.default") == 2
    assert not any("sparse" in name for name in names)
    for batch_size in (1, 4, 9):
        expected = model(images(batch_size))
        torch.testing.assert_close(program.module()(images(batch_size)), expected)
        torch.testing.assert_close(lowered.module()(images(batch_size)), expected)


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_exported_programs_hold_the_compact_weights(support: Any) -> None:
    model = network(support).eval()
    program = torch.export.export(model, (images(),))
    assert {name: tuple(value.shape) for name, value in program.state_dict.items()} == {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_exported_programs_open_in_another_process(support: Any, tmp_path: Path) -> None:
    """Nothing but ``import precut.ops`` is needed, whose operators the program names."""
    model = network(support).eval()
    torch.export.save(torch.export.export(model, (images(),)), tmp_path / "model.pt2")
    torch.save([images(), model(images()).detach()], tmp_path / "values.pt")
    code = (
        "import sys, torch, precut.ops\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "x, expected = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(program(x), expected)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.pt2"), str(tmp_path / "values.pt")],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
