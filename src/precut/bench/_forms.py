"""The files that engines take, made from one model."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from precut.engine import compile, export
from precut.errors import PrecutError
from precut.layers import densify

__all__ = ["FORMS"]


def _native(model: nn.Module, x: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.precut"
    if not path.exists():
        compile(model, x, autotune=False).save(path)
    return path


def _pt2(model: nn.Module, x: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.pt2"
    if not path.exists():
        with torch.no_grad():
            torch.export.save(torch.export.export(densify(model).eval(), (x,)), path)
    return path


def _onnx(model: nn.Module, x: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.onnx"
    if not path.exists():
        export(model, path, x)
    return path


def _onnx17(model: nn.Module, x: torch.Tensor, folder: Path) -> Path:
    """Opset 17, which engines of 2023 read."""
    path = folder / "model17.onnx"
    if path.exists():
        return path
    import onnx
    from onnx import version_converter

    made = version_converter.convert_version(onnx.load(_onnx(model, x, folder)), 17)
    made.ir_version = 8
    for node in made.graph.node:
        # The converter leaves it behind; opset 17 does not know it.
        late = [attribute for attribute in node.attribute if attribute.name == "noop_with_empty_axes"]
        for attribute in late:
            node.attribute.remove(attribute)
    onnx.checker.check_model(made)
    onnx.save(made, path)
    return path


def _int8(model: nn.Module, x: torch.Tensor, folder: Path) -> Path:
    """Weights per channel and activations in 8 bits, calibrated on noise: for its speed, not its accuracy."""
    path = folder / "model.int8.onnx"
    if path.exists():
        return path
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            shape = (8, *x.shape[1:])
            self.batches = iter([{"x": generator.standard_normal(shape).astype(np.float32)} for _ in range(4)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    import onnx

    source, clean = _onnx(model, x, folder), folder / "model.clean.onnx"
    quant_pre_process(str(source), str(clean), skip_symbolic_shape=True)
    loaded = onnx.load(clean)
    name = loaded.graph.input[0].name
    noise = Noise()
    if name != "x":
        noise.batches = iter([{name: batch["x"]} for batch in noise.batches])
    quantize_static(
        str(clean),
        str(path),
        noise,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


def _ncnn(model: nn.Module, x: torch.Tensor, folder: Path) -> Path:
    """Converted by pnnx, in float32; batch 1, over which the worker loops."""
    base = folder / "model.ncnn"
    if (folder / "model.ncnn.param").exists():
        return base
    import pnnx

    traced = folder / "model.pt"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's, on the one form that pnnx reads
        torch.jit.trace(densify(model).eval(), x[:1]).save(traced)
    shape = "[" + ",".join(map(str, (1, *x.shape[1:]))) + "]f32"
    command = [pnnx.EXEC_PATH, str(traced), f"inputshape={shape}", "fp16=0", "optlevel=2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if not (folder / "model.ncnn.param").exists():
        raise PrecutError(f"pnnx could not convert the network: {(done.stderr or done.stdout).strip()[-200:]}")
    return base


FORMS: dict[str, Callable[[nn.Module, torch.Tensor, Path], Path]] = {
    "native": _native,
    "pt2": _pt2,
    "onnx": _onnx,
    "onnx17": _onnx17,
    "int8": _int8,
    "ncnn": _ncnn,
}
