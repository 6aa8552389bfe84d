"""Exported files, run by other programs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import precut
from precut import runtime

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
native = pytest.mark.skipif(not runtime.available(), reason="no native library")


@pytest.mark.parametrize(
    ("name", "support"), [("resnet8", "PSD1_P16"), ("mobilenetv2", "dense"), ("speednet", "PS4_P4")]
)
def test_onnx_in_onnxruntime(name: str, support: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = precut.sparsify(precut.create_model(name, width_mult=0.5), support).eval()
    made = precut.export(model, tmp_path / "m.onnx", X[:1])
    assert made.form == "onnx"
    assert made.error is not None
    assert made.error < 1e-5
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]  # another batch than the example's
    np.testing.assert_allclose(found, model(X).detach().numpy(), rtol=1e-4, atol=1e-4)
    if support != "dense":
        assert "dense there, with zeros filled in" in str(made)


@native
def test_native_in_the_runtime(tmp_path: Path) -> None:
    model = precut.sparsify(precut.create_model("resnet8"), "PSD1_P16")
    made = precut.export(model, tmp_path / "m.precut", X[:1])
    assert made.form == "native"
    assert made.error is not None
    assert made.error < 1e-5
    assert made.bytes == made.path.stat().st_size
    with runtime.load(made.path) as loaded:
        np.testing.assert_allclose(loaded.run(X.numpy()), model.eval()(X).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_mode_is_left_as_it_was(tmp_path: Path) -> None:
    model = precut.create_model("resnet8").train()
    model.fc.eval() if hasattr(model, "fc") else None
    was = [module.training for module in model.modules()]
    if runtime.available():
        precut.export(model, tmp_path / "m.precut", X[:1])
    assert [module.training for module in model.modules()] == was


def test_wrong_uses(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3)
    with pytest.raises(
        precut.PrecutError, match=r"^unknown ending of an exported file '.onx': did you mean '.onnx'\?$"
    ):
        precut.export(model, tmp_path / "m.onx", X)
    with pytest.raises(
        precut.PrecutError, match=r"^export takes a tensor or a tuple of tensors as example_inputs; got list$"
    ):
        precut.export(model, tmp_path / "m.onnx", [X])


@native
def test_what_does_not_run_natively_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(x.flatten(1)).real

    with pytest.raises(precut.PrecutError, match="only a network that runs natively as a whole can be saved"):
        precut.export(Odd(), tmp_path / "m.precut", X)
    assert not list(tmp_path.iterdir())
