"""export: a network as a file for other programs: ONNX for other engines, or libprecut's own form."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from precut._files import atomic_write
from precut.engine._compile import compile
from precut.errors import PrecutError, unknown
from precut.layers import SparseLayer, densify

__all__ = ["Export", "export"]

_TOLERANCE = 1e-4  # of the largest output, between torch and the exported file
_OPSET = 18


@dataclass(frozen=True)
class Export:
    """What was written; ``str()`` tells it.

    Attributes:
        path: of the file.
        form: "onnx" or "native".
        bytes: its size.
        sparse_layers: how many layers have a support. In ONNX they are dense, with zeros.
        error: largest difference to torch over the largest output, on the example; None where nothing could check it.
        checked_with: what ran the file to find ``error``.
    """

    path: Path
    form: str
    bytes: int
    sparse_layers: int
    error: float | None
    checked_with: str | None

    def __str__(self) -> str:
        text = f"{self.path}: {self.form}, {self.bytes:,} bytes"
        if self.error is None:
            text += ", not checked (pip install onnxruntime checks it)"
        else:
            text += f", off by {self.error:.1e} of the largest output in {self.checked_with}"
        if self.form == "onnx" and self.sparse_layers:
            text += (
                f". Its {self.sparse_layers} sparse layers are dense there, with zeros filled in: it has the size, and "
                "elsewhere the speed, of the dense network"
            )
        return text


def export(model: nn.Module, path: str | os.PathLike[str], example_inputs: Any, opset: int = _OPSET) -> Export:
    """Writes a network in eval mode for other programs, and checks what was written against torch.

    Args:
        model: any module that ``precut.compile`` or torch's ONNX exporter takes.
        path: ``.onnx`` for ONNX (batch size free; needs the packages onnx and onnxscript), ``.precut`` for the file that
            ``precut.runtime`` and ``libprecut`` run.
        example_inputs: a float32 tensor or a tuple of them, batch first.
        opset: ONNX opset version.

    Raises:
        PrecutError: another ending, a package that is missing, a network that does not run natively as a whole (for
            ``.precut``), or a file whose outputs differ from torch's.
    """
    path = Path(path)
    forms = {".onnx": "onnx", ".precut": "native"}
    if path.suffix not in forms:
        raise unknown("ending of an exported file", path.suffix or str(path), forms)
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not all(isinstance(tensor, torch.Tensor) for tensor in inputs):
        raise PrecutError(
            f"export takes a tensor or a tuple of tensors as example_inputs; got {type(example_inputs).__name__}"
        )
    was = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            expected = model(*inputs)
        write = _onnx if path.suffix == ".onnx" else _native
        found, runner = write(model, path, inputs, opset)
    finally:
        for module, mode in was.items():
            module.training = mode
    outputs = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    error = None if found is None else _difference(outputs, found)
    if error is not None and not error <= _TOLERANCE:
        path.unlink()
        raise PrecutError(
            f"the exported file differs from torch by {error:.1e} of the largest output; nothing was kept"
        )
    layers = sum(isinstance(module, SparseLayer) for module in model.modules())
    return Export(path, forms[path.suffix], path.stat().st_size, layers, error, runner)


def _difference(expected: list[torch.Tensor], found: list[np.ndarray[Any, Any]]) -> float:
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        reference = one.detach().double().numpy()
        worst = max(worst, float(np.abs(reference - other).max() / max(np.abs(reference).max(), 1e-30)))
    return worst


def _native(
    model: nn.Module, path: Path, inputs: tuple[torch.Tensor, ...], opset: int
) -> tuple[list[np.ndarray[Any, Any]], str]:
    from precut import runtime

    compile(model, inputs, autotune=False).save(path)
    with runtime.load(path, autotune=False) as loaded:
        result = loaded.run(*(tensor.numpy() for tensor in inputs))
    return (list(result) if isinstance(result, tuple) else [result]), "precut.runtime"


def _onnx(
    model: nn.Module, path: Path, inputs: tuple[torch.Tensor, ...], opset: int
) -> tuple[list[np.ndarray[Any, Any]] | None, str | None]:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PrecutError(f"export to ONNX needs the package {error.name}: pip install 'precut[onnx]'") from error
    # It reports at length on packages that are absent and not needed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = torch.export.Dim("batch")
    # A batch of one would be taken for a constant.
    traced = tuple(torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor for tensor in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            densify(model),
            traced,
            dynamo=True,
            external_data=False,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    atomic_write(path, program.model_proto.SerializeToString())
    try:
        import onnxruntime
    except ImportError:
        return None, None
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    result = session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True)))
    return result, f"ONNX Runtime {onnxruntime.__version__}"
