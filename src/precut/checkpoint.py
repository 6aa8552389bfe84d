"""Saving and loading models: one safetensors file with plain tensors and a JSON spec that rebuilds the model.

Nothing is pickled, so loading an untrusted file runs no code. A structured support costs a few bytes of the spec; only
unstructured ones carry bits. A checksum covers the values and the spec; a file is read whole and checked before any
model is touched.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from precut._files import atomic_write
from precut.errors import PrecutError
from precut.layers import SparseLayer, replace_layer_, scatter_, scattered, skip_block_, sparse_like
from precut.models import create_model
from precut.models.cifar_resnet import PadShortcut
from precut.supports import Support, Unstructured, from_spec

__all__ = ["load", "read_beside", "read_spec", "save"]

FORMAT = "precut-model-1"
_BESIDE = "beside/"  # no module's name holds a slash

# Sizes that editing channels changes, by layer type; what differs from the freshly built model is written to the spec.
_SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm1d: ("num_features",),
    nn.BatchNorm2d: ("num_features",),
    PadShortcut: ("padding",),
}


def save(
    model: nn.Module,
    path: str | Path,
    extra: Mapping[str, Any] | None = None,
    beside: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Writes ``model`` to ``path`` (atomically) and returns the path.

    Args:
        model: any module; one from ``create_model`` (sparsified or not) can be loaded from the file alone.
        path: usually ``*.safetensors``.
        extra: JSON-able facts to keep beside the model (accuracy, recipe); ``read_spec(path)["extra"]`` gives them back.
        beside: further tensors to keep in the file, which ``load`` leaves out; ``read_beside(path)`` gives them back.

    Raises:
        PrecutError: for what is no model, a path that is a folder, or what safetensors and JSON cannot hold.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if not isinstance(model, nn.Module):
        raise PrecutError(f"save takes an nn.Module, then a path; got {type(model).__name__} {model!r:.60}")
    if Path(path).is_dir():
        raise PrecutError(f"{str(path)!r} is a folder; name a file in it: {str(Path(path) / 'model.safetensors')!r}")
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    memories: set[int] = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise PrecutError(f"the model's state holds {name!r}, a {type(value).__name__}; only tensors can be saved")
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and place in seen:
            aliases[name] = seen[place]
        else:
            seen[place] = name
            # Views of one memory must not share it in the file.
            tensors[name] = value.detach().to("cpu", copy=value.untyped_storage().data_ptr() in memories).contiguous()
            memories.add(value.untyped_storage().data_ptr())
    fresh = _fresh(model)
    spec = {
        "format": FORMAT,
        "model": getattr(model, "precut_spec", None) if fresh is not None else None,
        "supports": {
            name: {
                "maker": layer.support.maker.to_spec(),
                "shape": list(layer.dense_shape),
                "groups": layer.support.groups,
            }
            for name, layer in model.named_modules(remove_duplicate=False)
            if isinstance(layer, SparseLayer)
        },
        "scattered": {
            name: found.maker.to_spec()
            for name, layer in model.named_modules(remove_duplicate=False)
            if (found := scattered(layer)) is not None
        },
        "resized": {} if fresh is None else _resized(model, fresh),
        "aliases": aliases,
        "extra": dict(extra or {}),
    }
    if beside:
        tensors |= {
            f"{_BESIDE}{name}": value.detach().to("cpu", copy=True).contiguous() for name, value in beside.items()
        }
    try:
        text = json.dumps(spec, sort_keys=True)
    except TypeError as error:
        raise PrecutError(f"the model's spec or extra is not JSON-able: {error}") from error
    # one key, the checksum and then the spec: safetensors writes several keys in random order, and equal models must
    # give equal bytes
    return atomic_write(Path(path), to_bytes(tensors, {"precut": f"{_checksum(tensors, text)} {text}"}))


def _checksum(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _build(spec: Mapping[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # loading must not disturb a run's random numbers
        model = create_model(spec["model"], **spec["kwargs"])
    for name, tail in spec.get("skipped", {}).items():  # a subnet's blocks without their branch
        skip_block_(model, name, tail)
    return model


def _fresh(model: nn.Module) -> dict[str, nn.Module] | None:
    """The modules of what the model's spec builds; None where it has none, or has been changed since in what no file
    keeps (another activation, another stride)."""
    spec = getattr(model, "precut_spec", None)
    if spec is None:
        return None
    fresh = dict(_build(spec).named_modules())
    inside = ""  # a layer whose weight a parametrization holds, with its modules
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if scattered(module) is not None:
            inside = f"{name}."
        if name not in fresh or _manner(module, fresh[name]) != _manner(fresh[name], module):
            return None
    return fresh


def _manner(module: nn.Module, other: nn.Module) -> tuple[Any, ...]:
    """What ``module`` does apart from its weights and sizes, so far as it can be compared with ``other``."""
    if isinstance(module, SparseLayer) or isinstance(other, SparseLayer) or scattered(module) or scattered(other):
        return tuple(str(getattr(module, name, "")) for name in ("stride", "padding", "dilation", "padding_mode"))
    twin = copy.copy(module)
    for size in _SIZES.get(type(module), ()):  # the words tell them, too
        setattr(twin, size, 0)
    # Of no consequence for what the network computes: how statistics are tracked, dropout, where results are put.
    return type(module), re.sub(r"\b(momentum|inplace|p)=[^,]*(, )?", "", twin.extra_repr())


def _resized(model: nn.Module, fresh: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    resized = {}
    for name, module in model.named_modules():
        sizes = _SIZES.get(type(module), ())
        found = {size: getattr(module, size) for size in sizes}
        if found != {size: getattr(fresh.get(name), size, None) for size in sizes}:
            resized[name] = found
    return resized


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    path = Path(path)
    if not path.is_file():
        raise PrecutError(f"there is no model file at {str(path)!r}")
    try:
        content = path.read_bytes()  # once: a file replaced meanwhile must not be mixed with its successor
        tensors = from_bytes(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, OSError, ValueError) as error:
        raise PrecutError(f"{str(path)!r} is not a whole safetensors file (truncated or damaged): {error}") from error
    if "precut" not in metadata:
        raise PrecutError(
            f"{str(path)!r} is a safetensors file, but not a precut model; load its tensors with safetensors and "
            "model.load_state_dict (dense weights load into sparse layers too)"
        )
    checksum, _, text = metadata["precut"].partition(" ")
    if _checksum(tensors, text) != checksum:
        raise PrecutError(f"{str(path)!r} was altered after it was written: its checksum does not match its contents")
    try:
        spec = json.loads(text)
    except json.JSONDecodeError as error:
        raise PrecutError(f"{str(path)!r} holds a spec that is not JSON: {error}") from error
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        found = spec.get("format") if isinstance(spec, dict) else type(spec).__name__
        raise PrecutError(f"{str(path)!r} has format {found!r}; this version of precut reads {FORMAT!r}")
    return spec, tensors


def read_spec(path: str | Path) -> dict[str, Any]:
    """The JSON spec of a model file: "model", "supports", "extra". The file is checked like in ``load``."""
    return _read(path)[0]


def read_beside(path: str | Path) -> dict[str, torch.Tensor]:
    """The further tensors of a model file, by name."""
    tensors = _read(path)[1]
    return {name.removeprefix(_BESIDE): value for name, value in tensors.items() if name.startswith(_BESIDE)}


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The model in a file that ``save`` wrote, on the CPU, in eval mode.

    Args:
        path: the file.
        model: needed where the saved model was not made by ``create_model``: an instance of the same class, dense or
            sparse. It is not changed.

    Raises:
        PrecutError: when the file is missing, truncated, altered or foreign, or does not fit ``model``; nothing is then
            half-loaded.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise PrecutError(f"load takes model=, an instance of the saved model's class; got {model!r:.60}")
    spec, tensors = _read(path)
    try:
        return _assemble(spec, tensors, model, str(path))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        # The checksum held, so the file says something that no version of precut would: written by hand, or hostile.
        raise PrecutError(f"{str(path)!r} holds a spec that does not describe a model: {error}") from error


def _assemble(
    spec: Mapping[str, Any], tensors: dict[str, torch.Tensor], model: nn.Module | None, path: str
) -> nn.Module:
    if model is not None:
        made = copy.deepcopy(model)
    elif spec["model"] is not None:
        made = _build(spec["model"])
    else:
        raise PrecutError(
            f"{path!r} holds a model that create_model did not make; pass an instance of its class: "
            "precut.load(path, model=MyModel())"
        )
    for name, sizes in spec["resized"].items():
        _resize_(made.get_submodule(name), sizes, path)
    for name, entry in spec["supports"].items():
        support = Support(from_spec(entry["maker"]), entry["shape"], entry["groups"])
        try:
            layer = made.get_submodule(name)
        except AttributeError as error:
            raise PrecutError(f"{path!r} has a sparse layer {name!r} that the model lacks: {error}") from error
        if isinstance(layer, SparseLayer):
            if layer.support != support:
                raise PrecutError(f"layer {name!r} of the given model has {layer.support}; {path!r} has {support}")
        else:
            replace_layer_(made, name, _sparse_sized(layer, support))
    for name, entry in spec.get("scattered", {}).items():
        maker, layer = from_spec(entry), made.get_submodule(name)
        known = scattered(layer)
        if known is None and isinstance(maker, Unstructured):
            scatter_(layer, maker)
        elif known is None or known.maker != maker:
            raise PrecutError(f"layer {name!r} of the given model has other compact weights than {path!r}")
    state = {name: value for name, value in tensors.items() if not name.startswith(_BESIDE)}
    for name, other in spec["aliases"].items():
        state[name] = tensors[other]
    _check_state(made, state, path)
    _cast_(made, state)
    _tie_(made, spec["aliases"])
    made.load_state_dict(state)
    return made.eval()


def _tie_(made: nn.Module, aliases: Mapping[str, str]) -> None:
    """Makes parameters one again that were one when they were saved: layers made sparse were made one by one."""
    parameters = dict(made.named_parameters(remove_duplicate=False))
    for name, other in aliases.items():
        if name in parameters and other in parameters and parameters[name].shape == parameters[other].shape:
            path, _, attribute = name.rpartition(".")
            made.get_submodule(path)._parameters[attribute] = parameters[other]


def _check_state(made: nn.Module, state: Mapping[str, torch.Tensor], path: str) -> None:
    expected = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected == found:
        return
    for name in expected:
        if name not in found:
            raise PrecutError(f"{path!r} does not fit the model: it lacks {name!r}")
        if found[name] != expected[name]:
            raise PrecutError(
                f"{path!r} does not fit the model: {name!r} has shape {found[name]}, the model's has {expected[name]}"
            )
    raise PrecutError(f"{path!r} does not fit the model: it holds {sorted(set(found) - set(expected))[0]!r} as well")


def _cast_(made: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Gives every parameter and buffer the dtype that it was saved with."""
    for name, value in (*made.named_parameters(remove_duplicate=False), *made.named_buffers(remove_duplicate=False)):
        if name in state:
            value.data = value.data.to(state[name].dtype)


def _resize_(module: nn.Module, sizes: Mapping[str, Any], path: str) -> None:
    if isinstance(module, PadShortcut):
        padding = sizes.get("padding")
        if not isinstance(padding, list) or len(padding) != 6 or not all(isinstance(v, int) for v in padding):
            raise PrecutError(f"{path!r} resizes a PadShortcut by {dict(sizes)}, which it cannot")
        module.padding = (0, 0, 0, 0, max(0, padding[4]), max(0, padding[5]))
        return
    if set(sizes) != set(_SIZES.get(type(module), ())) or not all(isinstance(v, int) and v > 0 for v in sizes.values()):
        raise PrecutError(f"{path!r} resizes a {type(module).__name__} by {dict(sizes)}, which it cannot")
    for key, value in sizes.items():
        setattr(module, key, value)
    if isinstance(module, nn.Conv2d):
        kernel = module.weight.shape[2:]
        shape: tuple[int, ...] = (module.out_channels, module.in_channels // module.groups, *kernel)
        out = module.out_channels
    elif isinstance(module, nn.Linear):
        shape, out = (module.out_features, module.in_features), module.out_features
    else:
        shape = (module.num_features,)  # type: ignore[assignment]
        out = shape[0]
    for key, old in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if old.ndim:
            new = old.new_zeros(shape if key == "weight" else (out,))
            setattr(module, key, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _sparse_sized(layer: nn.Module, support: Support) -> nn.Module:
    """A sparse layer in place of a dense one, taking its sizes from the support (channels may have been cut since)."""
    if isinstance(layer, nn.Conv2d):
        sizes = {
            "in_channels": support.shape[1] * support.groups,
            "out_channels": support.shape[0],
            "groups": support.groups,
        }
    elif isinstance(layer, nn.Linear):
        sizes = {"in_features": support.shape[1], "out_features": support.shape[0]}
    else:
        raise PrecutError(f"a {type(layer).__name__} cannot be made sparse; nn.Conv2d and nn.Linear can")
    if any(getattr(layer, key) != value for key, value in sizes.items()):
        layer = copy.deepcopy(layer)
        _resize_(layer, sizes, "the file")
    return sparse_like(layer, support)
