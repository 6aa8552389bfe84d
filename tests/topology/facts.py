"""Reference values that the published code gave, and networks with its formula weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import precut

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "reference.json").read_text())


def formula_mlp(row: dict[str, Any]) -> nn.Module:
    """The MLP of a reference row with the formula's weights."""
    model = precut.create_model(
        "dense_mlp", num_classes=row["classes"], width=row["width"], depth=row["depth"], links=row["tc"],
        in_features=row["input_dims"],
    )  # fmt: skip
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for l, linear in enumerate(linears):  # noqa: E741
            o = torch.arange(1, linear.out_features + 1).double()
            i = torch.arange(1, linear.in_features + 1).double()
            phase = 1.7 * o[:, None] * i + 0.9 * (l + 1) * o[:, None] + 0.3 * (l + 1) * i
            linear.weight.copy_(phase.sin() / math.sqrt(linear.in_features))
            linear.bias.copy_(0.1 * torch.cos(o * (l + 1)))
    return model


def formula_inputs(row: dict[str, Any]) -> Tensor:
    """The 32 inputs that go with it."""
    k = torch.arange(1, 32 * row["input_dims"] + 1).double()
    return (0.7 * k).sin().abs().reshape(32, -1).float()
