"""Removing what no output depends on: weights, and channels whose every reader is gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from precut.errors import PrecutError
from precut.graph import ChannelSpace, Graph, capture, drop_
from precut.layers import SparseLayer
from precut.pruning._network import Network
from precut.pruning._paths import on_paths

__all__ = ["drop_channels_", "without_dead"]


def without_dead(network: Network) -> dict[str, torch.Tensor]:
    """The masks without weights that no output depends on, at the example's size, in eval mode: all others, biases and
    means with them, stay as they are, so the outputs do too."""
    return on_paths(network, constants=True)


def drop_channels_(model: nn.Module, example: Any) -> int:
    """Drops, in place, the channels that no weight reads any more; returns how many.

    Args:
        model: with sparse layers.
        example: the model's inputs, as ``capture`` takes them.
    """
    dropped, refused = 0, set()
    while True:
        orders = _droppable(model, capture(model, example))
        orders = {space: channels for space, channels in orders.items() if _key(space) not in refused}
        if not orders:
            return dropped
        try:
            drop_(model, orders)
            return dropped + sum(map(len, orders.values()))
        except PrecutError:  # two that may each go, but not together: one by one, then
            pass
        for space, channels in orders.items():
            try:
                drop_(model, {space: channels})
            except PrecutError:
                refused.add(_key(space))
                continue
            dropped += len(channels)
            break  # the other spaces are those of the model as it was


def _key(space: ChannelSpace) -> tuple[str, ...]:
    return tuple(f"{place.owner}.{place.axis}" for place in space.occurrences)


def _droppable(model: nn.Module, graph: Graph) -> dict[ChannelSpace, list[int]]:
    orders: dict[ChannelSpace, list[int]] = {}
    modules = dict(model.named_modules())
    if any(place.axis == "index" for space in graph.spaces for place in space.occurrences):
        return {}  # what an index tensor picks is read in another space
    elsewhere = graph.spaces.read_without_weights()
    for space in graph.spaces:
        if space.frozen is not None or space.id in elsewhere:
            continue
        gone = _unread(space, modules)
        if gone is None:
            continue
        channels = np.flatnonzero(gone)
        if len(channels) == space.size:
            channels = channels[1:]  # a space keeps one channel
        if len(channels) and space.why_not(space.size - len(channels)) is None:
            orders[space] = channels.tolist()
    return orders


def _unread(space: ChannelSpace, modules: Mapping[str, nn.Module]) -> np.ndarray | None:
    """Which channels of a space only sparse layers read, with no weight on them; None where something else reads it."""
    gone = np.ones(space.size, dtype=bool)
    readers = 0
    for place in space.occurrences:
        if place.axis in ("param", "out"):
            continue
        layer = modules.get(place.owner)
        if place.axis != "in" or not isinstance(layer, SparseLayer):
            return None
        readers += 1
        kept = layer.support.mask()
        groups = layer.support.groups
        columns = torch.cat([block.flatten(2).any(2).any(0) if block.ndim > 2 else block.any(0)
                             for block in kept.chunk(groups, 0)])  # fmt: skip
        gone &= ~columns.numpy()[place.positions].any(1)
    return gone if readers else None
