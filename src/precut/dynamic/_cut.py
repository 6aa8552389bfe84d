"""From a point to its subnet: a copy of the network, cut; and where each of its weights lies in the full network."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from precut.dynamic._point import Point
from precut.dynamic._space import Space
from precut.graph import restrict_
from precut.layers import SparseConv2d, skip_block_
from precut.supports import Periodic

__all__ = ["Share", "cut", "cut_", "shares"]


def cut(model: nn.Module, space: Space, point: Point) -> nn.Module:
    """The subnet of ``point``: a plain module with weights of its own. ``point`` has been checked.

    Args:
        model: of the structure that the space was made from.
    """
    return cut_(copy.deepcopy(model), space, point)


def cut_(model: nn.Module, space: Space, point: Point) -> nn.Module:
    """See :func:`cut`; in place."""
    _narrow_(model, space, point)
    return _skip_(model, space, point)


def _narrow_(model: nn.Module, space: Space, point: Point) -> None:
    """Fewer weights a kernel, then fewer channels. In this order the supports keep their rules."""
    for name, kss in point.kss:
        layer = model.get_submodule(name)
        assert isinstance(layer, SparseConv2d)
        assert isinstance(layer.support.maker, Periodic)
        layer.move_support_(replace(layer.support.maker, kss=kss))
    smaller = {space.widths[name].channels: size for name, size in point.widths if size < space.widths[name].size}
    if smaller:
        restrict_(model, smaller)


def _skip_(model: nn.Module, space: Space, point: Point) -> nn.Module:
    for name in point.skipped:
        if name in dict(model.named_modules(remove_duplicate=False)):  # not inside a block that is gone already
            skip_block_(model, name, space.blocks[name].tail)
    spec = vars(model).get("precut_spec")
    if point.skipped and spec is not None:
        gone = {name: space.blocks[name].tail for name in point.skipped}
        vars(model)["precut_spec"] = {**spec, "skipped": {**spec.get("skipped", {}), **gone}}
    return model


@dataclass(frozen=True)
class Share:
    """Which entries of one tensor of the full network a subnet holds.

    Attributes:
        dims: for each dimension (start, length), or the positions where they are no run; None where the entries are no
            box of rows and columns.
        flat: then their positions in the flattened tensor, of the subnet's shape.
    """

    dims: tuple[tuple[int, int] | torch.Tensor, ...] | None
    flat: torch.Tensor | None = None

    def of(self, full: torch.Tensor) -> torch.Tensor:
        """The subnet's tensor; differentiable. A view where all positions are runs."""
        if self.dims is None:
            assert self.flat is not None
            return full.reshape(-1)[self.flat.to(full.device)]
        for dim, part in enumerate(self.dims):
            if isinstance(part, torch.Tensor):
                full = full.index_select(dim, part.to(full.device))
            elif part != (0, full.shape[dim]):
                full = full.narrow(dim, *part)
        return full

    @property
    def is_view(self) -> bool:
        """Whether ``of`` copies nothing."""
        return self.dims is not None and not any(isinstance(part, torch.Tensor) for part in self.dims)

    @property
    def is_prefix(self) -> bool:
        """Whether the entries are the first ones along every dimension."""
        return self.is_view and all(part[0] == 0 for part in self.dims or ())


def shares(
    model: nn.Module, space: Space, point: Point
) -> tuple[nn.Module, dict[str, tuple[str, Share]], list[tuple[nn.Module, nn.Module]]]:
    """The subnet's structure, for every floating-point parameter and buffer of it where it lies in the full network, and
    which modules of that its modules stand for.

    Found by cutting a copy whose tensors hold their own positions: whatever an edit does, it does to these too.

    Returns:
        (the module, whose tensors hold positions and are worthless; name in it to (name in ``model``, Share); pairs of a
        module in it and one in ``model``).
    """
    copies: dict[int, Any] = {}
    counted = copy.deepcopy(model, copies)
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(counted)}
    for _, tensor in _tensors(counted):
        tensor.data = torch.arange(1, tensor.numel() + 1, dtype=torch.float64).reshape(tensor.shape)
    _narrow_(counted, space, point)
    known = {id(tensor): name for name, tensor in _tensors(counted)}
    _skip_(counted, space, point)
    found: dict[str, tuple[str, Share]] = {}
    for name, tensor in _tensors(counted):
        source = known[id(tensor)]
        found[name] = source, _share(tensor, shapes[source])
    left = set(counted.modules())
    twins = [(own, full) for full in model.modules() if (own := copies.get(id(full))) in left]
    return counted, found, twins


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Floating-point parameters and buffers with their names, shared ones by each of them."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return [(name, tensor) for name, tensor in named if tensor.is_floating_point()]


def _share(counted: torch.Tensor, shape: tuple[int, ...]) -> Share:
    """The Share that a tensor of positions (from 1) into a tensor of ``shape`` tells."""
    flat = counted.detach().to(torch.int64).numpy() - 1
    assert flat.size == 0 or flat.min() >= 0
    if flat.ndim == len(shape) and flat.size:
        lines = []
        for dim, size in enumerate(shape):
            place = flat // math.prod(shape[dim + 1 :]) % size
            line = np.moveaxis(place, dim, 0).reshape(flat.shape[dim], -1)[:, 0]
            if not (np.moveaxis(place, dim, -1) == line).all():
                break
            lines.append(line)
        if len(lines) == flat.ndim:
            return Share(tuple(_run(line) for line in lines))
    return Share(None, torch.from_numpy(flat.copy()))


def _run(line: Any) -> tuple[int, int] | torch.Tensor:
    start = int(line[0])
    if (line == np.arange(start, start + len(line))).all():
        return start, len(line)
    return torch.from_numpy(line.copy())
