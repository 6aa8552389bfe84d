"""One file for a whole dynamic network: the full network's weights once, and what each point has for itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut import checkpoint
from precut.dynamic._point import Point
from precut.errors import PrecutError

if TYPE_CHECKING:
    from precut.dynamic._net import DynamicNet

__all__ = ["load", "save"]


def save(dyn: DynamicNet, path: str | Path, extra: Mapping[str, Any] | None = None) -> Path:
    """Writes a dynamic network to one safetensors file (atomically) and returns the path.

    ``precut.load`` of it gives the full network; :func:`load` all of it.

    Args:
        dyn: with its points; those that ``prepare`` or ``ladder`` did not list are left out.
        path: usually ``*.safetensors``.
        extra: JSON-able facts to keep beside it.
    """
    notes = {
        "points": [point.to_dict() for point in dyn.points],
        "dims": list(dyn.dims),
        "norms": dyn.norms,
        "inputs": [
            {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")} for value in dyn.graph.inputs
        ],
    }
    beside: dict[str, torch.Tensor] = {}
    for number, point in enumerate(dyn.points):
        beside |= {f"{number}.{name}": tensor for name, tensor in dyn.own_tensors(point).items()}
    return checkpoint.save(dyn.model, path, {**(extra or {}), "dynamic": notes}, beside)


def load(path: str | Path, model: nn.Module | None = None, example_inputs: Any = None) -> DynamicNet:
    """The dynamic network in a file that ``dyn.save`` wrote, on the CPU, in eval mode; its points are ready.

    Args:
        path: the file.
        model: needed where the network was not made by ``create_model``: an instance of its class.
        example_inputs: needed where it does not take just tensors.

    Raises:
        PrecutError: when the file is damaged, holds no dynamic network, or does not fit ``model``.
    """
    from precut.dynamic._net import make_dynamic

    notes = checkpoint.read_spec(path)["extra"].get("dynamic")
    if notes is None:
        raise PrecutError(f"{str(path)!r} holds a plain network: precut.load reads it, make_dynamic makes it dynamic")
    plain = checkpoint.load(path, model)
    beside = checkpoint.read_beside(path)
    try:
        given = [torch.zeros(item["shape"], dtype=getattr(torch, item["dtype"])) for item in notes["inputs"]]
        dyn = make_dynamic(
            plain, example_inputs if example_inputs is not None else tuple(given), notes["dims"], notes["norms"]
        )
        points = [Point.from_dict(item) for item in notes["points"]]
        if points:
            dyn.prepare(points)
        for number, point in enumerate(points):
            own = dyn.own_tensors(point)
            kept = {name: beside[f"{number}.{name}"] for name in own}
            with torch.no_grad():
                for name, tensor in own.items():
                    if tensor.shape != kept[name].shape:
                        raise PrecutError(f"{str(path)!r}: {name!r} of point {number} does not fit")
                    tensor.copy_(kept[name])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise PrecutError(f"{str(path)!r} holds notes that describe no dynamic network: {error}") from error
    return dyn.eval()
