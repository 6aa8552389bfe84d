"""What a compiled network returns, and what a saved file gives: the same, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from engine.nets import Net, compiled
from precut import runtime
from precut.engine._export import _difference
from precut.graph import leaves

pytestmark = pytest.mark.skipif(not runtime.available(), reason="the native library was not built")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
INF, NAN = float("inf"), float("nan")


def pair(m: Any, x: Tensor) -> Any:
    y = m.c(x)
    return F.relu(y), y


def thrice(m: Any, x: Tensor) -> Any:
    y = m.c(x)
    return {"a": y, "b": [y * 2, (y,)]}


@pytest.mark.parametrize("forward", [pair, thrice])
def test_a_file_has_the_results_in_order_and_as_often(forward: Callable[..., Any], tmp_path: Path) -> None:
    model = Net(forward).eval()
    fast = compiled(model, X)
    fast.save(tmp_path / "m.precut")
    made = precut.export(model, tmp_path / "e.precut", X)
    assert made.error is not None
    assert made.error < 1e-5
    with torch.no_grad():
        want = [tensor.numpy() for tensor in leaves(model(X))]
    assert isinstance(fast(X), type(model(X)))
    for path in ("m.precut", "e.precut"):
        with runtime.load(tmp_path / path, threads=1, autotune=False) as loaded:
            found = loaded.run(X.numpy())
        for have, call, expected in zip(found, leaves(fast(X)), want, strict=True):
            np.testing.assert_allclose(have, expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(call.numpy(), expected, rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "rank": (lambda m, x: m.fc(x.mean((2, 3)))[:, :, None, None], "its result 0, 'getitem', is (2, 4, 1, 1), reshaped"),
    "input": (lambda m, x: (m.c(x), x), "its result 1 is an input"),
    "size": (lambda m, x: (m.c(x), x.shape[0]), "the result also holds"),
    "nothing": (lambda m, x: {"y": m.c(x), "n": None}, "the result also holds None"),
    "parameter": (lambda m, x: (m.c(x), m.c.bias), "the result also holds ParamRef"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_results_that_a_file_cannot_give(case: str, tmp_path: Path) -> None:
    forward, message = REFUSED[case]
    fast = compiled(Net(forward, fc=nn.Linear(3, 4)), X)
    with pytest.raises(precut.PrecutError) as raised:
        fast.save(tmp_path / "m.precut")
    assert message.replace("the result", "its result") in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("expected", "found", "error"),
    [
        ([[1.0, 2.0]], [[1.0, 2.5]], 0.25),
        ([[1.0, 2.0]], [[1.0, NAN]], INF),
        ([[1.0, INF]], [[1.0, -INF]], INF),
        ([[1.0, NAN, INF]], [[1.0, NAN, INF]], 0.0),
        ([[]], [[]], 0.0),
        ([[1.0]], [[1.0], [1.0]], INF),
        ([[1.0, 2.0]], [[1.0]], INF),
    ],
)
def test_what_counts_as_a_difference(expected: Any, found: Any, error: float) -> None:
    assert _difference([torch.tensor(item) for item in expected], [np.array(item) for item in found]) == error


@pytest.mark.parametrize("ending", [".precut", ".onnx"])
def test_a_failed_export_leaves_the_good_file(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    path = tmp_path / f"m{ending}"
    path.write_text("good")
    monkeypatch.setattr("precut.engine._export._difference", lambda expected, found: NAN)
    with pytest.raises(precut.PrecutError, match="nothing was written"):
        precut.export(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), path, X)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


EXPORTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "function": (lambda p: precut.export(lambda x: x, p / "m.precut", X), "export takes an nn.Module; got function"),  # type: ignore[arg-type]
    "no path": (lambda p: precut.export(nn.ReLU(), None, X), "path must name a file, such as 'model.onnx'; got None"),  # type: ignore[arg-type]
    "nothing": (lambda p: precut.export(nn.ReLU(), p / "m.precut", ()), "export takes a tensor or a tuple of tensors"),
    "folder": (
        lambda p: precut.export(nn.ReLU(), p / "dir.precut", X),
        "dir.precut' cannot be written: Is a directory",
    ),
    "below a file": (lambda p: precut.export(nn.ReLU(), p / "file" / "m.precut", X), "m.precut' cannot be written: "),
    "no tensor": (lambda p: precut.export(Net(lambda m, x: (m.c(x), 3)), p / "m.precut", X), "result also holds 3"),
    "channels": (
        lambda p: precut.export(Net(lambda m, x: m.c(x)), p / "m.onnx", X[:, :2]),
        "the model does not take these example inputs: RuntimeError: Given groups=1",
    ),
    "onnx": (
        lambda p: precut.export(Net(lambda m, *x: m.c(x[0])), p / "m.onnx", X),
        "torch cannot export this network to ONNX",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", EXPORTS)
def test_wrong_exports(case: str, tmp_path: Path) -> None:
    if case == "onnx":
        pytest.importorskip("onnxscript")
    (tmp_path / "dir.precut").mkdir()
    (tmp_path / "file").touch()
    act, message = EXPORTS[case]
    with pytest.raises(precut.PrecutError) as raised:
        act(tmp_path)
    assert message in str(raised.value)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_example_that_requires_grad_or_is_written_into(tmp_path: Path) -> None:
    x = X.clone().requires_grad_()
    made = precut.export(nn.Sequential(nn.Conv2d(3, 4, 1)), tmp_path / "m.precut", x)
    assert made.error is not None
    x = X.clone()
    precut.export(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1)), tmp_path / "m.precut", x)
    assert torch.equal(x, X)


@pytest.mark.parametrize("path", ["dir", "file/m.precut", "a\0b", None])
def test_places_that_cannot_be_written(path: str | None, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    fast = compiled(nn.Conv2d(3, 4, 1), X)
    with pytest.raises(precut.PrecutError, match="cannot be written"):
        fast.save(path if path is None else tmp_path / path)  # type: ignore[arg-type]
