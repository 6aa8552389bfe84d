"""What a subnet must compute, told by the whole network: run operation by operation, with zeros wherever a channel is
absent, a branch gone, or a weight outside a smaller support."""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
from typing import Any

import torch
from torch import Tensor, nn

from graph.nets import randomise_
from precut.dynamic import DynamicNet, Point, Space, make_dynamic
from precut.graph import Node, ParamRef, SizeRef, Value, leaves, rebuild
from precut.layers import SparseConv2d
from precut.supports import Support


def random_point(space: Space, draw: random.Random) -> Point:
    """Any point: widths, skipped blocks and kernel support sizes at random."""
    widths = {}
    for name, dim in space.widths.items():
        choices = list(range(dim.period, dim.size, dim.period))
        widths[name] = draw.choice([*choices, dim.size])
    skip = [name for name in space.blocks if draw.random() < 0.3]
    kss = {name: draw.randint(1, most) for name, most in space.kernels.items()}
    return space.point(widths=widths, skip=skip, kss=kss or None)


def keeps(space: Space, point: Point, value: Value) -> tuple[int, Tensor] | None:
    """(channel dimension, bool for each position: whether the channel is there); None where nothing is cut."""
    layout = space.graph.spaces.layout(value)
    if layout is None:
        return None
    gone = absent(space, point)
    kept = [(number, member) not in gone for number, member in zip(*(part.tolist() for part in layout), strict=True)]
    dim = space.graph.spaces.channel_dim(value)
    assert dim is not None
    return dim, torch.tensor(kept)


@functools.lru_cache(maxsize=4)
def absent(space: Space, point: Point) -> set[tuple[int, int]]:
    """The channels that are not there, as (ChannelSpace, place in it): those beyond a width, and those that an index
    tensor picks from them."""
    gone = {
        (dim.channels.id, member) for name, dim in space.widths.items() for member in range(point.width(name), dim.size)
    }
    for node in space.graph.nodes:
        index = next((leaf for leaf in leaves(node.args) if isinstance(leaf, ParamRef)), None)
        if node.op in ("index_select", "getitem") and index is not None:
            source, made = (space.graph.spaces.layout(value) for value in (node.input, node.output))
            assert source is not None
            assert made is not None
            picks = space.graph.model.get_buffer(index.name).tolist()
            pairs = [list(zip(*(part.tolist() for part in layout), strict=True)) for layout in (source, made)]
            gone |= {pairs[1][place] for place, pick in enumerate(picks) if pairs[0][pick] in gone}
    return gone


def supernet(dyn: DynamicNet, point: Point, statistics: nn.Module | None = None) -> nn.Module:
    """The whole network, with the weights outside the point's kernel supports zeroed, and the batch-norm statistics of
    ``statistics`` (an extracted subnet) in the places of their channels."""
    model = copy.deepcopy(dyn.model)
    for name, kss in point.kss:
        layer = model.get_submodule(name)
        assert isinstance(layer, SparseConv2d)
        maker = dataclasses.replace(layer.support.maker, kss=kss)  # type: ignore[type-var]
        inside = Support(maker, layer.support.shape, layer.support.groups).mask()
        layer.set_dense_weight_(layer.dense_weight().detach() * inside)
    if statistics is not None:
        known = dict(statistics.named_modules())
        for node in dyn.graph.nodes:
            if node.op == "batch_norm" and node.path in known:
                found = keeps(dyn.space, point, node.output)
                assert found is not None
                own, small = model.get_submodule(node.path), known[node.path]
                own.running_mean[found[1]] = small.running_mean  # type: ignore[index, assignment, operator]
                own.running_var[found[1]] = small.running_var  # type: ignore[index, assignment, operator]
    return model


def masked_run(dyn: DynamicNet, point: Point, model: nn.Module, x: Tensor) -> Tensor:
    """What ``model``, of the whole network's structure, gives with what the point leaves out set to zero."""
    graph = dyn.graph
    branches = {dyn.space.blocks[name].add: dyn.space.blocks[name].branch for name in point.skipped}
    env: dict[int, Tensor] = {graph.inputs[0].id: x}
    shapes: dict[int, torch.Size] = {graph.inputs[0].id: x.shape}

    def put(value: Value, tensor: Tensor) -> None:
        found = keeps(dyn.space, point, value)
        if found is not None and not found[1].all():
            dim, kept = found
            tensor = tensor * kept.to(tensor).reshape([-1 if d == dim else 1 for d in range(tensor.ndim)])
        env[value.id], shapes[value.id] = tensor, tensor.shape

    def run(node: Node) -> Any:
        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return env[leaf.id] * 0 if branches.get(node.name) is leaf else env[leaf.id]
            if isinstance(leaf, ParamRef):
                path, _, key = leaf.name.rpartition(".")
                return (
                    graph.constants[leaf.name] if leaf.kind == "constant" else getattr(model.get_submodule(path), key)
                )
            return leaf.resolve(shapes) if isinstance(leaf, SizeRef) else leaf

        args, kwargs = rebuild(node.args, fill), rebuild(node.kwargs, fill)
        function: Any = node.function if node.module is None else model.get_submodule(node.path).forward
        return function(*args, **kwargs)

    for node in graph.nodes:
        for place, tensor in zip(leaves(node.result), leaves(run(node)), strict=True):
            if isinstance(place, Value):
                put(place, tensor)
        assert not node.writes
    return env[graph.outputs[0].id]


def prepared(model: nn.Module, x: Tensor, **options: Any) -> DynamicNet:
    """A dynamic network in float64 of a model in which no two channels are alike."""
    return make_dynamic(randomise_(model), x, **options)


def images(count: int = 3, side: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    """Random images in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)
