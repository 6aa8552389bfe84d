"""Rules of operations with parameters: convolutions, linear layers, norms, PReLU."""

from __future__ import annotations

import numpy as np

from precut.graph._adapters import has_adapter
from precut.graph._flow import Flow, TensorAxis, UnfollowedError, rule
from precut.graph._graph import Node, ParamRef
from precut.graph._labels import Codes, Labels
from precut.graph._rules import channels, like, main_input


def _names(flow: Flow, node: Node, *roles: str) -> dict[str, str]:
    """Role to the name of the parameter or buffer that the node uses for it."""
    names: dict[str, str] = {}
    if node.module is not None and not has_adapter(node.module):
        raise UnfollowedError(f"{node.where} is a {type(node.module).__name__} without take_channels_")
    for role in roles:
        if node.module is not None:
            if role in node.params:
                names[role] = node.params[role][0]
            elif _edits_itself(node):
                if role == "weight":
                    names[role] = f"{node.path}.{role}"  # whatever it is called there
            elif getattr(node.module, role, None) is not None:
                raise UnfollowedError(f"{node.where} computes its {role} (a mask or parametrization)")
            continue
        item = node.bound.get(role)
        if isinstance(item, ParamRef) and item.kind != "constant":
            names[role] = item.name
            flow.of(item)
        elif item is not None:
            raise UnfollowedError(f"{node.where} takes a {role} that is no parameter or buffer of the model")
    return names


def _per_channel(flow: Flow, node: Node, codes: Codes | None, names: dict[str, str], dim: int = 0) -> None:
    """Parameters with a value for each channel along ``dim``."""
    if node.module is not None and names:
        flow.read(node, node.path, "param", codes, tuple(TensorAxis(name, dim) for name in names.values()))
        return
    for name in names.values():
        axis, tensors = flow.param_axis(name, dim)
        flow.read(node, name, axis, codes, tensors)


def _blocks(node: Node, codes: Codes, groups: int) -> Codes:
    """The group of each channel."""
    if len(codes) % groups:
        raise UnfollowedError(f"{node.where} cannot divide {len(codes)} channels into {groups} groups")
    return np.arange(len(codes)) * groups // len(codes)


def _edits_itself(node: Node) -> bool:
    return node.module is not None and hasattr(node.module, "take_channels_")


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    transposed = "transpose" in node.op
    dim = len(labels.shape) - int(node.op[-2]) - 1
    codes = channels(node, labels, dim)
    names = _names(flow, node, "weight", "bias")
    weight, groups = names["weight"], node.attrs.get("groups", 1)
    owner = weight if node.module is None else node.path
    inner, outer = TensorAxis(weight, 1, groups), TensorAxis(weight, 0)
    if transposed:
        inner, outer = TensorAxis(weight, 0), TensorAxis(weight, 1, groups)
    outs = (outer, TensorAxis(names["bias"], 0)) if "bias" in names and node.module is not None else (outer,)
    if groups > 1 and node.inputs[0].shape[dim] == groups:
        made = _depthwise(flow, node, codes, owner, outs, dim, transposed)
        if made is None:
            return [Labels(node.output.shape, reason=labels.reason)]
    else:
        flow.read(node, owner, "in", codes, (inner,))
        made = flow.fresh(node, owner, "out", node.output.shape[dim], outs)
        if groups > 1:
            if codes is not None:
                flow.mark(node, codes, _blocks(node, codes, groups))
                if _edits_itself(node):
                    flow.freeze(codes, f"{node.where} counts its input channels within groups")
            flow.mark(node, made, _blocks(node, made, groups))
    if "bias" in names and node.module is None:
        flow.read(node, names["bias"], "param", made, (TensorAxis(names["bias"], 0),))
    return [Labels.along(dim, made, node.output.shape)]


def _depthwise(
    flow: Flow,
    node: Node,
    codes: Codes | None,
    owner: str,
    outs: tuple[TensorAxis, ...],
    dim: int,
    transposed: bool,
) -> Codes | None:
    """Each channel makes its own outputs, so the rows of the weight move with the input."""
    multiplier = node.output.shape[dim] // node.inputs[0].shape[dim]
    if transposed:
        if multiplier > 1:
            raise UnfollowedError(f"{node.where} makes several outputs of each channel in a transposed convolution")
        outs = (TensorAxis(outs[0].name, 0), *outs[1:])
    if codes is None:
        flow.read(node, owner, "out", None, outs)
        return None
    if node.module is None and flow.number(node.bound["groups"]) != len(codes):
        raise UnfollowedError(f"{node.where} has a number of groups that is fixed in the model's code")
    if multiplier > 1:
        steps = np.tile(np.arange(multiplier), len(codes))
        codes = flow.tags.extend(np.repeat(codes, multiplier), "multiplier", steps)
    flow.read(node, owner, "out", codes, outs)
    return codes


@rule("linear")
def _linear(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    last = len(labels.shape) - 1
    names = _names(flow, node, "weight", "bias")
    owner = names["weight"] if node.module is None else node.path
    inner = (TensorAxis(names["weight"], 1),)
    outs: tuple[TensorAxis, ...] = (TensorAxis(names["weight"], 0),)
    if "bias" in names and node.module is not None:
        outs = (*outs, TensorAxis(names["bias"], 0))
    if labels.followed and last not in labels.dims:  # each channel by itself: the layer works along another dimension
        flow.read(node, owner, "in", None, inner)
        flow.read(node, owner, "out", None, outs)
        return [like(labels, node.output)]
    flow.read(node, owner, "in", channels(node, labels, last), inner)
    made = flow.fresh(node, owner, "out", node.output.shape[-1], outs)
    if "bias" in names and node.module is None:
        flow.read(node, names["bias"], "param", made, (TensorAxis(names["bias"], 0),))
    return [Labels.along(last, made, node.output.shape)]


@rule("batch_norm", "instance_norm")
def _batch_norm(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    codes = channels(node, labels, 1)
    _per_channel(flow, node, codes, _names(flow, node, "weight", "bias", "running_mean", "running_var"))
    return [like(labels, node.output)]


@rule("group_norm")
def _group_norm(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    codes = channels(node, labels, 1)
    names = _names(flow, node, "weight", "bias")
    _per_channel(flow, node, codes, names)
    if codes is not None:
        groups = node.attrs["num_groups"]
        if groups == node.inputs[0].shape[1]:
            if node.module is not None and not names:
                flow.read(node, node.path, "param", codes, ())  # the module's number of groups follows the channels
            if node.module is None and groups != len(codes):
                raise UnfollowedError(f"{node.where} has a number of groups that is fixed in the model's code")
        else:
            flow.mark(node, codes, _blocks(node, codes, groups), f"{node.where} takes statistics over several channels")
    return [like(labels, node.output)]


@rule("layer_norm", "rms_norm")
def _layer_norm(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    sizes = node.attrs["normalized_shape"]
    first = len(labels.shape) - (len(sizes) if isinstance(sizes, (tuple, list)) else 1)
    names = _names(flow, node, "weight", "bias")
    if not labels.followed:
        _per_channel(flow, node, None, names)
        return [like(labels, node.output)]
    inside = [d for d in labels.dims if d >= first]
    if not inside:
        return [like(labels, node.output)]
    codes = channels(node, labels, inside[0])
    assert codes is not None
    _per_channel(flow, node, codes, names, inside[0] - first)
    flow.mark(node, codes, None, f"{node.where} takes statistics over the channels")
    return [like(labels, node.output)]


@rule("prelu")
def _prelu(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    names = _names(flow, node, "weight")
    if node.params["weight"][1].numel() > 1:
        _per_channel(flow, node, channels(node, labels, 1), names)
    return [like(labels, node.output)]
