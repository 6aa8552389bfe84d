"""A module around a function, captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from precut.graph import Graph, capture

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Call(nn.Module):
    """A module whose forward is a function of the input; parameters are attributes."""

    def __init__(self, function: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def captured(function: Callable[..., Any], *inputs: Any, **members: Any) -> Graph:
    graph = capture(Call(function, **members), inputs or X)
    graph.verify()
    return graph
