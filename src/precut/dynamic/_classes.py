"""The residue classes of a ChannelSpace: which channels the supports of the layers around it treat alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import nn

from precut.graph import ChannelSpace
from precut.layers import SparseLayer

__all__ = ["classes_of"]


def classes_of(space: ChannelSpace, modules: Mapping[str, nn.Module]) -> tuple[np.ndarray, int, str]:
    """How structured supports divide the channels of a space.

    Returns:
        (class of each channel, int64; period; the layer that asks for it). Channels of one class may change places
        without changing any support. Widths that are multiples of the period keep all classes equally full; it is 1
        where no structured support meets the space.
    """
    columns: list[np.ndarray] = []
    period, owner = 1, ""
    for place in space.occurrences:
        layer = modules.get(place.owner)
        if not isinstance(layer, SparseLayer) or layer.support.table is None or place.axis not in ("out", "in"):
            continue
        table = layer.support.table
        if place.axis == "out":
            found = place.positions // table.align % table.out_classes
            length = table.align * table.out_classes
        else:
            found = place.positions % layer.dense_shape[1] % table.in_classes
            length = table.in_classes
        if length > 1:
            columns.append(found)
            if math.lcm(period, length) > period:
                period, owner = math.lcm(period, length), place.owner
    if not columns:
        return np.zeros(space.size, np.int64), 1, ""
    _, classes = np.unique(np.concatenate(columns, axis=1), axis=0, return_inverse=True)
    return classes.reshape(-1).astype(np.int64), period, owner
