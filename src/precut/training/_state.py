"""What a checkpoint holds and how it lies on disk: one safetensors file, tensors plus JSON, nothing pickled."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from precut._files import atomic_write
from precut.errors import PrecutError

__all__ = ["get_rng", "load_optimizer", "optimizer_state", "read_tree", "set_rng", "write_tree"]

FORMAT = "precut-training-1"


def write_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Write nested dicts (string keys), lists, tensors and JSON scalars to ``path``, atomically.

    The JSON travels in the header of the same file as the tensors, so that a crash cannot part them.

    Raises:
        PrecutError: something in the tree is neither.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(tree, "", tensors), sort_keys=True)
    # One key: safetensors writes several in a random order, and equal runs must give equal bytes.
    header = json.dumps({"crc32": _crc(tensors, text), "tree": text})
    atomic_write(path, to_bytes(tensors, {FORMAT: header}))


def read_tree(path: Path) -> dict[str, Any]:
    """The tree that :func:`write_tree` wrote.

    Raises:
        PrecutError: the file is missing, truncated, altered or of another kind.
    """
    if not path.is_file():
        raise PrecutError(f"there is no checkpoint at {str(path)!r}")
    content = path.read_bytes()  # at once: safe_open opens a file twice, and a checkpoint may be renamed in between
    try:
        tensors = from_bytes(content)
    except (SafetensorError, ValueError) as error:
        raise PrecutError(f"{str(path)!r} is not a whole safetensors file (truncated or damaged): {error}") from error
    # The format: eight bytes of the header's length, little-endian, then the header in JSON (which was read just now).
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    if FORMAT not in metadata:
        raise PrecutError(f"{str(path)!r} is not a training checkpoint of this version of precut ({FORMAT!r})")
    header = json.loads(metadata[FORMAT])
    if _crc(tensors, header["tree"]) != header["crc32"]:
        raise PrecutError(f"{str(path)!r} was altered after it was written: its checksum does not match its contents")
    tree: dict[str, Any] = _unpack(json.loads(header["tree"]), tensors)
    return tree


def _crc(tensors: Mapping[str, Tensor], text: str) -> int:
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def _pack(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        # A copy: safetensors takes neither shared nor strided storage. torch stays the owner of the layout.
        key = name if name not in tensors else f"{name}#{len(tensors)}"  # a dot in a key can make two names one
        tensors[key] = node.detach().to("cpu", copy=True).contiguous()
        return {"tensor": key}
    if isinstance(node, Mapping):
        if not all(isinstance(key, str) for key in node):
            raise PrecutError(f"a checkpoint's dicts need string keys; {name or 'the top'} has {list(node)[:3]}")
        return {"dict": {key: _pack(value, f"{name}.{key}" if name else key, tensors) for key, value in node.items()}}
    if isinstance(node, (list, tuple)):
        return {"list": [_pack(value, f"{name}.{i}", tensors) for i, value in enumerate(node)]}
    if node is None or isinstance(node, (bool, int, float, str)):
        return {"value": node}
    raise PrecutError(
        f"a checkpoint cannot hold {name!r}, a {type(node).__name__}; "
        "expected tensors, numbers, strings, lists and dicts"
    )


def _unpack(node: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in content.items()}
    if kind == "list":
        return [_unpack(value, tensors) for value in content]
    return content


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What the optimiser keeps for each parameter, in the order of its groups."""
    return [dict(optimizer.state.get(p, {})) for group in optimizer.param_groups for p in group["params"]]


def load_optimizer(optimizer: torch.optim.Optimizer, states: list[dict[str, Any]]) -> None:
    """Put :func:`optimizer_state` back. Tensors shaped like their parameter also get its strides, so that the same
    loops run over them as before and round alike."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if len(states) != len(parameters):
        raise PrecutError(f"the checkpoint's optimiser has {len(states)} parameters, the model's {len(parameters)}")
    for parameter, state in zip(parameters, states, strict=True):
        if state:
            optimizer.state[parameter] = {
                key: torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                if isinstance(value, Tensor) and value.shape == parameter.shape
                else value
                for key, value in state.items()
            }


def get_rng(device: torch.device) -> dict[str, Any]:
    """The state of the global random generators: torch's, the device's, NumPy's and Python's."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "numbers": torch.tensor(numbers), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng(state: Mapping[str, Any], device: torch.device) -> None:
    """Put :func:`get_rng` back."""
    python, numpy = state["python"], state["numpy"]
    torch.set_rng_state(state["torch"])
    random.setstate((python["version"], tuple(python["numbers"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
