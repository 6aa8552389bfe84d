"""export: a network as a file for other programs: ONNX for other engines, or libprecut's own form."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from precut.engine._compile import compile, refusal
from precut.engine._compiled import write_file
from precut.errors import PrecutError, unknown, whole
from precut.graph import leaves
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
    """Writes a network in eval mode for other programs, after checking it against torch: a file that was there stays
    until then. Its outputs are the tensors of the model's result, in their order.

    Args:
        model: any module that ``precut.compile`` or torch's ONNX exporter takes.
        path: ``.onnx`` for ONNX (batch size free; needs the packages onnx and onnxscript), ``.precut`` for the file that
            ``precut.runtime`` and ``libprecut`` run.
        example_inputs: a float32 tensor or a tuple of them, batch first.
        opset: ONNX opset version.

    Raises:
        PrecutError: another ending, a package that is missing, a network that does not run natively as a whole (for
            ``.precut``), a result that holds more than tensors, outputs that differ from torch's, or a path that cannot
            be written.
    """
    try:
        path = Path(path)
    except TypeError:
        raise PrecutError(f"path must name a file, such as 'model.onnx'; got {path!r:.60}") from None
    forms = {".onnx": "onnx", ".precut": "native"}
    if path.suffix not in forms:
        raise unknown("ending of an exported file", path.suffix or str(path), forms)
    if not isinstance(model, nn.Module):
        raise PrecutError(f"export takes an nn.Module; got {type(model).__name__} {model!r:.60}")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not inputs or not all(isinstance(tensor, torch.Tensor) for tensor in inputs):
        raise PrecutError(
            f"export takes a tensor or a tuple of tensors as example_inputs; got {type(example_inputs).__name__}"
        )
    inputs = tuple(tensor.detach() for tensor in inputs)
    whole("opset", opset)
    was = {module: module.training for module in model.modules()}
    try:
        model.eval()
        outputs = _outputs(model, inputs)
        make = _onnx if path.suffix == ".onnx" else _native
        data, found, runner = make(model, inputs, opset)
    finally:
        for module, mode in was.items():
            module.training = mode
    error = None if found is None else _difference(outputs, found)
    if error is not None and not error <= _TOLERANCE:
        raise PrecutError(
            f"the exported network differs from torch by {error:.1e} of the largest output; nothing was written"
        )
    write_file(path, data)
    layers = sum(isinstance(module, SparseLayer) for module in model.modules())
    return Export(path, forms[path.suffix], len(data), layers, error, runner)


def _outputs(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The result's tensors in order: what a file's outputs are."""
    try:
        with torch.no_grad():
            outputs = list(leaves(model(*(tensor.clone() for tensor in inputs))))  # it may write into them
    except PrecutError:
        raise
    except Exception as error:
        raise refusal(model, inputs, error) from error
    for item in outputs:
        if not isinstance(item, torch.Tensor):
            raise PrecutError(f"an exported network gives tensors alone; the model's result also holds {item!r:.60}")
    return outputs


def _difference(expected: list[torch.Tensor], found: list[np.ndarray[Any, Any]]) -> float:
    """The largest difference over the largest (finite) number of the same output; infinite where one has a number, an
    infinity or a NaN and the other has not, or their shapes differ."""
    worst = 0.0
    for one, other in zip_longest(expected, found):
        if one is None or other is None or tuple(one.shape) != other.shape:
            return float("inf")
        reference, given = one.detach().double().numpy(), other.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.abs(reference - given)
        gap[(reference == given) | (np.isnan(reference) & np.isnan(given))] = 0
        gap[np.isnan(gap)] = np.inf
        largest = np.abs(reference[np.isfinite(reference)]).max(initial=1e-30)
        worst = max(worst, float(gap.max(initial=0) / largest))
    return worst


Made = tuple[bytes, list[np.ndarray[Any, Any]] | None, str | None]  # the file, what it gave, what ran it


def _native(model: nn.Module, inputs: tuple[torch.Tensor, ...], opset: int) -> Made:
    from precut import runtime

    data = compile(model, inputs, autotune=False)._file()
    with runtime.load(data, autotune=False) as loaded:
        result = loaded.run(*(tensor.numpy() for tensor in inputs))
    return data, (list(result) if isinstance(result, tuple) else [result]), "precut.runtime"


def _onnx(model: nn.Module, inputs: tuple[torch.Tensor, ...], opset: int) -> Made:
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
        try:
            program = torch.onnx.export(
                densify(model),
                traced,
                dynamo=True,
                external_data=False,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:  # the exporter fails in ways of its own; the cause tells more than its advice
            why = error.__cause__ or error
            raise PrecutError(
                f"torch cannot export this network to ONNX: {type(why).__name__}: {str(why)[:300]}"
            ) from error
    assert program is not None
    data = program.model_proto.SerializeToString()
    try:
        import onnxruntime
    except ImportError:
        return data, None, None
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    result = session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True)))
    return data, result, f"ONNX Runtime {onnxruntime.__version__}"
