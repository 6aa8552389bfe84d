"""A module around a function, for networks of a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import precut
from precut.engine import CompiledModel


class Net(nn.Module):
    """``function(module, *inputs)``, with a convolution ``c`` of 3 to 8 channels that keeps the size."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.c = nn.Conv2d(3, 8, 3, padding=1)
        for name, part in parts.items():
            if isinstance(part, torch.Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def compiled(model: nn.Module, example: Any, **options: Any) -> CompiledModel:
    """On one thread, by the cost model."""
    return precut.compile(model.eval(), example, **{"threads": 1, "autotune": False, **options})
