"""Wrong and unusual arguments of compile, of calls and of explain."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import precut
from engine.nets import Net, compiled
from precut import runtime

pytestmark = pytest.mark.skipif(not runtime.available(), reason="the native library was not built")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv() -> nn.Module:
    return Net(lambda m, x: m.c(x).relu())


COMPILES: dict[str, tuple[Callable[[], Any], str]] = {
    "threads": (lambda: compiled(conv(), X, threads=1025), "threads must be a whole number from 1 to 1024; got 1025"),
    "wraps": (
        lambda: compiled(conv(), X, threads=2**33),
        "threads must be a whole number from 1 to 1024; got 8589934592",
    ),
    "double input": (
        lambda: compiled(conv(), X.double()),
        "compile needs a float32 model and float32 inputs; input 0 is",
    ),
    "double model": (lambda: compiled(conv().double(), X), "float32 inputs; c.weight is float64: call .float()"),
    "integers": (
        lambda: compiled(conv(), X.long()),
        "cannot run on example_inputs of shape (2, 3, 8, 8) int64: RuntimeError: Input",
    ),
    "meta": (lambda: compiled(conv(), X.to("meta")), "compile needs numbers; input 'input0' is on the meta device"),
    "meta model": (lambda: compiled(conv().to("meta"), X), "compile needs numbers; c.weight is on the meta device"),
    "both meta": (lambda: compiled(conv().to("meta"), X.to("meta")), "compile needs numbers; input 'input0' is on the"),
    "sparse": (lambda: compiled(conv(), X.to_sparse()), "compile needs dense tensors; input 0 is torch.sparse_coo"),
    "channels": (
        lambda: compiled(conv(), X[:, :2]),
        "cannot run on example_inputs of shape (2, 2, 8, 8) float32: RuntimeError: Given",
    ),
    "keyword": (
        lambda: compiled(nn.ReLU(), {"q": X}),
        "cannot run on example_inputs of shape (2, 3, 8, 8) float32: TypeError: ",
    ),
    "no image": (
        lambda: compiled(conv(), X[:0]),
        "compile takes at least one image a call; input 0 of the example has",
    ),
    "compiled": (lambda: precut.compile(compiled(conv(), X), X), "capture takes an nn.Module; got CompiledModel"),
}


@pytest.mark.parametrize("case", COMPILES)
def test_what_compile_does_not_take(case: str) -> None:
    act, message = COMPILES[case]
    with pytest.raises(precut.PrecutError) as raised:
        act()
    assert message in str(raised.value)


def test_what_is_wrong_with_the_environment_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECUT_ISA", "bogus")
    with pytest.raises(precut.PrecutError, match='unknown instruction set "bogus"'):
        compiled(conv(), X)
    monkeypatch.delenv("PRECUT_ISA")
    (tmp_path / "lib.so").write_text("text")
    monkeypatch.setenv("PRECUT_LIB", str(tmp_path / "lib.so"))
    runtime.library.cache_clear()
    try:
        with pytest.raises(precut.PrecutError, match=r"lib.so' cannot be loaded"):
            compiled(conv(), X)
    finally:
        runtime.library.cache_clear()


CALLS: dict[str, tuple[Any, str]] = {
    "none": (None, "takes 1 tensor (input0) and else what the example held; got 0 tensors and 1 other arguments"),
    "no image": (X[:0], "a compiled model takes at least one image a call; input 'input0' has shape (0, 3, 8, 8)"),
    "double": (X.double().numpy(), "input 'input0' was float32 when the model was compiled; got float64"),
    "words": (np.array([["a"]]), "input 'input0' is an array of <U1, which is no dtype of torch"),
    "sparse": (X.to_sparse(), "input 'input0' is torch.sparse_coo, not a dense tensor: call .to_dense()"),
    "meta": (X.to("meta"), "a compiled model runs on the CPU; input 'input0' is on meta"),
    "channels": (X[:, :2], "inputs of these sizes, (2, 2, 8, 8); it was compiled for (2, 3, 8, 8): "),
}


@pytest.mark.parametrize("case", CALLS)
def test_what_a_call_does_not_take(case: str) -> None:
    given, message = CALLS[case]
    with pytest.raises(precut.PrecutError) as raised:
        compiled(conv(), X)(given)
    assert message in str(raised.value)


def test_arrays_of_any_layout() -> None:
    fast = compiled(conv(), X)
    frozen = X.numpy().copy()
    frozen.flags.writeable = False
    for array in (frozen, X.numpy().astype(">f4"), np.asfortranarray(X.numpy()), X.flip(0).numpy()[::-1]):
        assert np.array_equal(fast(array), fast(X).numpy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, 2), "was 2 in its example; got Tensor of shape (2, 3, 8, 8)"),
        ((X.numpy(), 2), "was 2 in its example; got ndarray of shape (2, 3, 8, 8)"),
        ((3, X), "was 2 in its example; got 3"),
        ((np.ones(3), X), "got 2 tensors and 0 other arguments"),
    ],
)
def test_arguments_that_are_no_tensors_stay(arguments: Any, message: str) -> None:
    fast = compiled(Net(lambda m, k, x: m.c(x) * k), (2, X))
    assert fast(2, X).shape == (2, 8, 8, 8)
    with pytest.raises(precut.PrecutError) as raised:
        fast(*arguments)
    assert message in str(raised.value)


def test_explain_takes_what_a_call_takes() -> None:
    fast = compiled(conv(), X)
    for given in (X[:1], [X[:1]], (X[:1].numpy(),)):
        assert "1x3x8x8" in str(fast.explain(inputs=given))
    for wrong in ([], [X, X], 3, [3], [X[0]], [X.double()], X[:0]):
        with pytest.raises(precut.PrecutError):
            fast.explain(inputs=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies(act: Callable[[Any], Any]) -> None:
    with pytest.raises(
        precut.PrecutError, match="a compiled model cannot be copied or pickled: compile again, or save"
    ):
        act(compiled(conv(), X))


@pytest.mark.parametrize("mask", [[1, 0, 1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1, 0]])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_masks_of_channels(mask: list[int], dtype: torch.dtype) -> None:
    model = Net(lambda m, x: m.c(x)[:, m.mask], mask=torch.tensor(mask, dtype=dtype)).eval()
    fast = compiled(model, X)
    with torch.no_grad():
        torch.testing.assert_close(fast(X), model(X))


@pytest.mark.parametrize("bounds", [{"min": -1.0}, {"max": 1.0}])
def test_clamps_keep_infinities(bounds: dict[str, float]) -> None:
    model = Net(lambda m, x: torch.clamp(x, **bounds))
    x = torch.tensor([float("inf"), -float("inf"), 0.5, 2.0] * 4).reshape(1, 4, 2, 2)
    assert torch.equal(compiled(model, x)(x), model(x))
