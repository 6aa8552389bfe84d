"""Small networks from a function and some members, and what every test of channels asks of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graph.nets import close, randomise_, without_inputs
from precut.graph import ChannelSpace, ChannelSpaces, capture, drop, permute

X = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Members by name, and a function for forward. ``head`` reads what the function returns."""

    def __init__(self, function: Callable[..., Tensor], head: int | None = None, **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.function = function
        self.head = nn.Conv2d(head, 3, 1) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, x))


def net(function: Callable[..., Tensor], head: int | None = None, **members: Any) -> tuple[nn.Module, ChannelSpaces]:
    model = randomise_(Net(function, head, **members))
    graph = capture(model, X)
    graph.verify()
    permutation_changes_nothing(model, graph.spaces)
    return model, graph.spaces


def permutation_changes_nothing(model: nn.Module, spaces: ChannelSpaces, x: Tensor = X) -> None:
    generator = torch.Generator().manual_seed(1)
    orders = {s: torch.randperm(s.size, generator=generator) for s in spaces if s.frozen is None}
    assert close(permute(model, orders)(x), model(x))


def told(space: ChannelSpace) -> dict[str, list[list[int]]]:
    return {f"{o.owner}.{o.axis}": o.positions.T.tolist() for o in space.occurrences}


def drop_is_exact(model: nn.Module, space: ChannelSpace, gone: list[int], x: Tensor = X) -> nn.Module:
    smaller = drop(model, space, gone)
    zeros = {(o.owner, p) for o in space.occurrences if o.axis == "in" for p in o.positions[gone].ravel().tolist()}
    assert close(smaller(x), without_inputs(copy.deepcopy(model), zeros)(x))
    return smaller


def line(function: Callable[..., Any], offset: int) -> str:
    """ "file.py:12" of the line ``offset`` after the first line of a function."""
    code = function.__code__
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno + offset}"
