"""Rules of operations that move data without changing it: reshapes, permutations, slices, concatenation, padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from precut.graph._flow import Flow, UnfollowedError, rule
from precut.graph._graph import Node, ParamRef, Value
from precut.graph._labels import Codes, Labels, reshape
from precut.graph._rules import argument, channels, elementwise, like, main_input


def _moved_input(flow: Flow, node: Node) -> Labels:
    return flow.view_of_param(node, main_input(flow, node))


def _indexed(labels: Labels, dim: int, index: Codes, flow: Flow) -> Labels:
    """The labels of a tensor of which the positions ``index`` along ``dim`` were taken."""
    shape = tuple(len(index) if d == dim else size for d, size in enumerate(labels.shape))
    if dim not in labels.dims:
        return Labels(shape, labels.dims, labels.codes, labels.constant, labels.reason)
    codes = np.take(labels.full, index, axis=dim)
    return Labels(shape, labels.dims, flow.tags.distinct(codes, "copy"))


def _without(flow: Flow, node: Node, labels: Labels, gone: set[int]) -> Labels:
    """The labels without dimensions of size 1."""
    if labels.dims and set(labels.dims) <= gone:
        flow.mark(node, labels.full, reads=True)  # what is left is this channel and no other
        labels = Labels(labels.shape, reason=f"{node.where} takes a single channel")
    kept = tuple(d for d in range(len(labels.shape)) if d not in gone)
    return labels.moved(tuple(labels.shape[d] for d in kept), kept)


# ---- reshapes ------------------------------------------------------------------------------------------------------


@rule("flatten", "reshape")
def _reshape(flow: Flow, node: Node) -> list[Labels]:
    labels = _moved_input(flow, node)
    shape = _target(flow, node, labels.shape)
    if not labels.followed:
        return [Labels(shape, constant=labels.constant, reason=labels.reason)]
    return [reshape(labels, shape, flow.tags, flow.channel_dims(node))]


def _target(flow: Flow, node: Node, before: tuple[int, ...]) -> tuple[int, ...]:
    """The shape after a reshape of a tensor of shape ``before``."""
    if "other" in node.bound:
        return flow.of(node.bound["other"]).shape
    sizes: tuple[Any, ...]
    if "shape" in node.bound:
        sizes = tuple(node.bound["shape"])
        if any(isinstance(size, torch.dtype) for size in sizes):
            raise UnfollowedError(f"{node.where} changes the type of the elements")
    elif "sizes" in node.bound or "unflattened_size" in node.attrs:
        given = node.bound["sizes"] if "sizes" in node.bound else node.attrs["unflattened_size"]
        dim = (node.bound["dim"] if "dim" in node.bound else node.attrs["dim"]) % len(before)
        inner = tuple(flow.number(size) for size in given)
        return (*before[:dim], *_inferred(node, inner, before[dim]), *before[dim + 1 :])
    else:
        first, last = node.attrs["start_dim"], node.attrs["end_dim"]
        return (*before[:first], math.prod(before[first : last + 1]), *before[last + 1 :])
    return _inferred(node, tuple(flow.number(size) for size in sizes), math.prod(before))


def _inferred(node: Node, sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """``sizes`` with -1 replaced so that there are ``count`` elements."""
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and known and count % known == 0:
        sizes = tuple(count // known if size == -1 else size for size in sizes)
    if math.prod(sizes) != count:
        raise UnfollowedError(f"{node.where} has sizes that are fixed in the model's code")
    return sizes


@rule("squeeze")
def _squeeze(flow: Flow, node: Node) -> list[Labels]:
    labels = _moved_input(flow, node)
    given = node.attrs.get("dim")
    captured = node.inputs[0].shape if node.inputs else labels.shape
    wanted = range(len(captured)) if given is None else given if isinstance(given, tuple) else (given,)
    return [_without(flow, node, labels, {d for d in wanted if captured[d] == 1})]


@rule("unsqueeze")
def _unsqueeze(flow: Flow, node: Node) -> list[Labels]:
    labels, dim = _moved_input(flow, node), node.attrs["dim"]
    order: list[int | None] = list(range(len(labels.shape)))
    order.insert(dim, None)
    return [labels.moved((*labels.shape[:dim], 1, *labels.shape[dim:]), tuple(order))]


@rule("permute", "transpose", "movedim")
def _permute(flow: Flow, node: Node) -> list[Labels]:
    labels = _moved_input(flow, node)
    order = list(range(len(labels.shape)))
    if node.op == "permute":
        order = list(node.attrs["dims"])
    elif node.op == "transpose":
        first, second = node.attrs["dim0"], node.attrs["dim1"]
        order[first], order[second] = second, first
    else:
        source, destination = (np.atleast_1d(node.attrs[role]).tolist() for role in ("source", "destination"))
        order = [d for d in order if d not in source]
        for place, d in sorted(zip(destination, source, strict=True)):
            order.insert(place, d)
    return [labels.moved(tuple(labels.shape[d] for d in order), tuple(order))]


@rule("expand", "expand_as")
def _expand(flow: Flow, node: Node) -> list[Labels]:
    labels = _moved_input(flow, node)
    if node.op == "expand_as":
        return [elementwise(flow, node, [labels, Labels(flow.of(node.bound["other"]).shape, constant=True)])]
    sizes = [flow.number(size) for size in node.bound["sizes"]]
    missing = len(sizes) - len(labels.shape)
    shape = tuple(labels.shape[d - missing] if size == -1 else size for d, size in enumerate(sizes))
    return [elementwise(flow, node, [labels, Labels(shape, constant=True)])]


@rule("channel_shuffle")
def _channel_shuffle(flow: Flow, node: Node) -> list[Labels]:
    labels, groups = main_input(flow, node), node.attrs["groups"]
    if not labels.followed:
        return [like(labels, node.output)]
    codes = channels(node, labels, 1)
    assert codes is not None
    if len(codes) % groups:
        raise UnfollowedError(f"{node.where} cannot divide {len(codes)} channels into {groups} groups")
    return [Labels.along(1, codes.reshape(groups, -1).T.reshape(-1), labels.shape)]


@rule("pixel_shuffle")
def _pixel_shuffle(flow: Flow, node: Node) -> list[Labels]:
    # Each output channel is made of factor**2 neighbours, which from here on move as one.
    labels, factor = main_input(flow, node), node.attrs["upscale_factor"]
    if not labels.followed:
        return [like(labels, node.output)]
    dim = len(labels.shape) - 3
    codes = channels(node, labels, dim)
    assert codes is not None
    if len(codes) % factor**2:
        raise UnfollowedError(f"{node.where} cannot divide {len(codes)} channels by {factor**2}")
    parts = codes.reshape(-1, factor**2)
    for k in range(1, factor**2):
        flow.join(node, parts[:, 0], parts[:, k])
    return [Labels.along(dim, flow.tags.distinct(parts[:, 0].copy(), "copy"), node.output.shape)]


# ---- parts ---------------------------------------------------------------------------------------------------------


@rule("split", "chunk", "unbind")
def _split(flow: Flow, node: Node) -> list[Labels]:
    labels, dim = _moved_input(flow, node), node.attrs["dim"]
    size = labels.shape[dim]
    if node.op == "unbind":
        return [_without(flow, node, _indexed(labels, dim, np.array([k]), flow), {dim}) for k in range(size)]
    if node.op == "chunk":
        given: Any = -(-size // flow.number(argument(node, "chunks")))
    else:
        given = argument(node, "split_size_or_sections")
    if isinstance(given, (tuple, list)):
        sizes = [flow.number(item) for item in given]
        if sum(sizes) != size:
            raise UnfollowedError(f"{node.where} splits into sizes that are fixed in the model's code")
    else:
        step = max(1, flow.number(given))
        sizes = [min(step, size - start) for start in range(0, size, step)]
    ends = np.cumsum(sizes)
    return [_indexed(labels, dim, np.arange(end - n, end), flow) for end, n in zip(ends, sizes, strict=True)]


@rule("narrow")
def _narrow(flow: Flow, node: Node) -> list[Labels]:
    start, length = argument(node, "start"), argument(node, "length")
    labels, dim = _moved_input(flow, node), node.attrs["dim"]
    if isinstance(start, (Value, ParamRef)):
        raise UnfollowedError(f"{node.where} starts at a computed place")
    first = flow.number(start) % max(1, labels.shape[dim])
    if first + flow.number(length) > labels.shape[dim]:
        raise UnfollowedError(f"{node.where} has a length that is fixed in the model's code")
    return [_indexed(labels, dim, np.arange(first, first + flow.number(length)), flow)]


@rule("select")
def _select(flow: Flow, node: Node) -> list[Labels]:
    labels, dim = _moved_input(flow, node), node.attrs["dim"]
    index = argument(node, "index")
    if isinstance(index, (Value, ParamRef)):
        raise UnfollowedError(f"{node.where} takes a computed place")
    taken = _indexed(labels, dim, _positions(node, [flow.number(index)], labels.shape[dim]), flow)
    return [_without(flow, node, taken, {dim})]


@rule("flip")
def _flip(flow: Flow, node: Node) -> list[Labels]:
    labels = _moved_input(flow, node)
    for dim in node.attrs["dims"]:
        labels = _indexed(labels, dim, np.arange(labels.shape[dim])[::-1], flow)
    return [labels]


@rule("index_select")
def _index_select(flow: Flow, node: Node) -> list[Labels]:
    labels = _moved_input(flow, node)
    return [_picked(flow, node, labels, node.attrs["dim"], node.bound["index"])]


def _positions(node: Node, index: list[int], size: int) -> Codes:
    positions = np.array(index, np.int64)
    if (positions < -size).any() or (positions >= size).any():
        raise UnfollowedError(f"{node.where} takes a position that is fixed in the model's code")
    return positions % max(1, size)


def _picked(flow: Flow, node: Node, labels: Labels, dim: int, index: Any) -> Labels:
    """The labels of a tensor of which a list or tensor of positions was taken along ``dim``."""
    if isinstance(index, Value):
        if dim in labels.dims:
            raise UnfollowedError(f"{node.where} takes channels by computed positions")
        size = flow.of(index).shape
        if len(size) != 1:
            raise UnfollowedError(f"{node.where} takes positions by a tensor that is no list of positions")
        shape = (*labels.shape[:dim], size[0], *labels.shape[dim + 1 :])
        return Labels(shape, labels.dims, labels.codes, reason=labels.reason)
    if isinstance(index, ParamRef):
        flow.handled.add(index.name)
        tensor = flow.tensor(index)
        if tensor.ndim != 1 or tensor.dtype == torch.bool:
            raise UnfollowedError(f"{node.where} takes positions by a tensor that is no list of positions")
        if dim in labels.dims and index.kind == "buffer":
            codes = channels(node, labels, dim)
            assert codes is not None
            return Labels.along(dim, flow.gather(node, index.name, tensor.cpu().numpy(), codes), labels.shape)
        index = tensor.tolist()
    return _indexed(labels, dim, _positions(node, [flow.number(item) for item in index], labels.shape[dim]), flow)


@rule("getitem")
def _getitem(flow: Flow, node: Node) -> list[Labels]:
    labels = _moved_input(flow, node)
    index = node.bound["index"]
    parts = list(index) if isinstance(index, tuple) else [index]
    named = sum(part is not None and part is not Ellipsis for part in parts)
    whole = [slice(None)] * (len(labels.shape) - named)
    if Ellipsis in [part for part in parts if not isinstance(part, (Value, ParamRef, list))]:
        at = next(k for k, part in enumerate(parts) if part is Ellipsis)
        parts[at : at + 1] = whole
    else:
        parts += whole
    lists = sum(isinstance(part, (list, Value, ParamRef)) for part in parts)
    if lists > 1 or any(isinstance(part, bool) for part in parts):
        raise UnfollowedError(f"{node.where} takes positions of several dimensions at once")
    dim = 0
    for part in parts:
        if part is None:
            order: list[int | None] = list(range(len(labels.shape)))
            order.insert(dim, None)
            labels = labels.moved((*labels.shape[:dim], 1, *labels.shape[dim:]), tuple(order))
            dim += 1
        elif isinstance(part, slice):
            bounds = slice(*(None if b is None else flow.number(b) for b in (part.start, part.stop, part.step)))
            labels = _indexed(labels, dim, np.arange(*bounds.indices(labels.shape[dim])), flow)
            dim += 1
        elif isinstance(part, (list, Value, ParamRef)):
            if isinstance(part, list) and any(isinstance(item, bool) for item in part):
                raise UnfollowedError(f"{node.where} takes positions by a mask")
            labels = _picked(flow, node, labels, dim, part)
            dim += 1
        else:
            taken = _indexed(labels, dim, _positions(node, [flow.number(part)], labels.shape[dim]), flow)
            labels = _without(flow, node, taken, {dim})
    if len(labels.shape) != len(node.output.shape):
        raise UnfollowedError(f"{node.where} takes positions by a mask or a matrix")
    return [labels]


# ---- joins ---------------------------------------------------------------------------------------------------------


@rule("cat")
def _cat(flow: Flow, node: Node) -> list[Labels]:
    dim = node.attrs["dim"]
    parts = [flow.view_of_param(node, flow.of(item)) for item in argument(node, "tensors")]
    parts = [part for part in parts if part.shape != (0,)]
    size = sum(part.shape[dim] for part in parts)
    if not any(dim in part.dims for part in parts):  # along another dimension: the channels are the same ones
        shape = (*parts[0].shape[:dim], 1, *parts[0].shape[dim + 1 :])
        joined = [
            Labels((*p.shape[:dim], 1, *p.shape[dim + 1 :]), p.dims, p.codes, p.constant, p.reason) for p in parts
        ]
        sizes = [value.shape for value in node.inputs] if len(node.inputs) == len(joined) else None
        sizes = sizes and [(*size[:dim], 1, *size[dim + 1 :]) for size in sizes]
        labels = elementwise(flow, node, joined, sizes)
        if labels.shape != shape:
            raise UnfollowedError(f"{node.where} joins tensors of different sizes")
        shape = (*shape[:dim], size, *shape[dim + 1 :])
        return [Labels(shape, labels.dims, labels.codes, reason=labels.reason)]
    codes = [_piece(flow, node, part, dim, number) for number, part in enumerate(parts)]
    steps = np.repeat(np.arange(len(parts)), [len(piece) for piece in codes])
    return [Labels.along(dim, flow.tags.distinct(np.concatenate(codes), "part", steps), node.output.shape)]


def _piece(flow: Flow, node: Node, part: Labels, dim: int, number: int) -> Codes:
    """One operand's codes along ``dim``; where it has none, codes of its own."""
    codes = channels(node, part, dim)
    if codes is None:
        codes = flow.fresh(node, f"<{node.name}[{number}]>", "out", part.shape[dim], fixed="joins a number of channels")
        if not part.constant:
            flow.freeze(codes, part.reason or f"{node.where} joins channels that are not followed")
    return codes


@rule("stack")
def _stack(flow: Flow, node: Node) -> list[Labels]:
    parts = [flow.of(item) for item in argument(node, "tensors")]
    dim = node.attrs["dim"]
    if any(part.dims != parts[0].dims or part.shape != parts[0].shape or not part.followed for part in parts):
        if any(part.followed for part in parts):
            raise UnfollowedError(f"{node.where} stacks tensors of different channels")
        return [Labels(node.output.shape)]
    codes = np.stack(np.broadcast_arrays(*(part.full for part in parts)), axis=dim)
    steps = np.arange(len(parts)).reshape([-1 if axis == dim else 1 for axis in range(codes.ndim)])
    dims = tuple(sorted((dim, *(d + (d >= dim) for d in parts[0].dims))))
    shape = (*parts[0].shape[:dim], len(parts), *parts[0].shape[dim:])
    return [Labels(shape, dims, flow.tags.distinct(codes, "part", steps))]


@rule("pad")
def _pad(flow: Flow, node: Node) -> list[Labels]:
    labels = main_input(flow, node)
    amounts = [flow.number(item) for item in argument(node, "padding")]
    for k in range(0, len(amounts), 2):
        dim = len(labels.shape) - 1 - k // 2
        before, after = amounts[k], amounts[k + 1]
        if not before and not after:
            continue
        if dim not in labels.dims:
            shape = tuple(size + before + after if d == dim else size for d, size in enumerate(labels.shape))
            labels = Labels(shape, labels.dims, labels.codes, False, labels.reason)
            continue
        if argument(node, "mode") != "constant":
            raise UnfollowedError(f"{node.where} pads channels with other channels")
        codes = channels(node, labels, dim)
        assert codes is not None
        codes = codes[max(0, -before) : len(codes) - max(0, -after)]
        before, after = max(0, before), max(0, after)
        if before + after:
            made, before = _padding(flow, node, before, after)
            steps = np.repeat([1, 0, 1], [before, len(codes), len(made) - before])
            codes = flow.tags.distinct(np.concatenate([made[:before], codes, made[before:]]), "part", steps)
        labels = Labels.along(dim, codes, labels.shape)
    return [labels]


def _padding(flow: Flow, node: Node, before: int, after: int) -> tuple[Codes, int]:
    """Codes for channels of padding, and how many of them come first. They may go where the module that pads can be
    told so (``take_channels_("pad", index)``); elsewhere the model's code fixes their number."""
    if hasattr(flow.graph.model.get_submodule(node.path), "take_channels_"):
        made = flow.fresh(node, node.path, "pad", before + after)
        return made, int((flow.slots(node.path, "pad") < before).sum())
    return flow.fresh(node, f"<{node.name}>", "out", before + after, fixed="pads a number of channels"), before
