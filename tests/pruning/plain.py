"""The published algorithm (Tanaka et al. 2020, section 7 and the authors' repository) written plainly, for comparison:
masked layers, the model made absolute in place, every score from all weights, one sort a round. Shares nothing with
precut."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.weight_mask, self.bias)


class MaskedLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.weight_mask, self.bias)


def masked_copy(model: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, dict[str, nn.Module]]:
    """A copy whose layers multiply their weights by masks, and those layers."""
    copied = copy.deepcopy(model).to(dtype).eval()
    layers = {}
    for name, module in copied.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.__class__ = MaskedConv2d if isinstance(module, nn.Conv2d) else MaskedLinear
            module.register_buffer("weight_mask", torch.ones_like(module.weight))
            layers[name] = module
    return copied, layers


def synflow(model: nn.Module, layers: dict[str, nn.Module], batches: Any, shape: tuple[int, ...]) -> dict[str, Tensor]:
    signs = {}
    with torch.no_grad():
        for name, value in model.state_dict().items():
            signs[name] = torch.sign(value)
            value.abs_()
    model.zero_grad()
    x = torch.ones((1, *shape), dtype=next(model.parameters()).dtype)
    torch.sum(model(x)).backward()
    scores = {name: (layer.weight.grad * layer.weight).detach().abs() for name, layer in layers.items()}
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.mul_(signs[name])
    return scores


def magnitude(model: nn.Module, layers: dict[str, nn.Module], batches: Any, shape: Any) -> dict[str, Tensor]:
    return {name: layer.weight.detach().abs() for name, layer in layers.items()}


def snip(model: nn.Module, layers: dict[str, nn.Module], batches: Any, shape: Any) -> dict[str, Tensor]:
    for layer in layers.values():
        layer.weight_mask.requires_grad_(True)
        layer.weight_mask.grad = None
    for x, y in batches:
        F.cross_entropy(model(x), y).backward()
    scores = {name: layer.weight_mask.grad.abs() for name, layer in layers.items()}
    for layer in layers.values():
        layer.weight_mask.requires_grad_(False)
    total = torch.cat([score.flatten() for score in scores.values()]).sum()
    return {name: score / total for name, score in scores.items()}


def grasp(model: nn.Module, layers: dict[str, nn.Module], batches: Any, shape: Any) -> dict[str, Tensor]:
    weights = [layer.weight for layer in layers.values()]
    stopped: Any = 0
    for x, y in batches:
        gradients = torch.autograd.grad(F.cross_entropy(model(x) / 200, y), weights)
        stopped = stopped + torch.cat([g.reshape(-1) for g in gradients])
    model.zero_grad()
    for x, y in batches:
        gradients = torch.autograd.grad(F.cross_entropy(model(x) / 200, y), weights, create_graph=True)
        (stopped * torch.cat([g.reshape(-1) for g in gradients])).sum().backward()
    scores = {name: (layer.weight.grad * layer.weight).detach() for name, layer in layers.items()}
    norm = torch.cat([score.flatten() for score in scores.values()]).sum().abs() + 1e-10
    return {name: score / norm for name, score in scores.items()}


PRUNERS = {"synflow": synflow, "magnitude": magnitude, "snip": snip, "grasp": grasp}


def plain_masks(
    model: nn.Module,
    pruner: str,
    density: float,
    shape: tuple[int, ...],
    rounds: int = 1,
    schedule: str = "exponential",
    scope: str = "global",
    batches: Iterable[Any] = (),
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Bool masks by layer."""
    copied, layers = masked_copy(model, dtype)
    batches = [(x.to(dtype), y) for x, y in batches]
    for epoch in range(rounds):
        scores = PRUNERS[pruner](copied, layers, batches, shape)
        share = (epoch + 1) / rounds
        sparse = density**share if schedule == "exponential" else 1.0 - (1.0 - density) * share
        groups = [list(scores)] if scope == "global" else [[name] for name in scores]
        for names in groups:
            flat = torch.cat([scores[name].flatten() for name in names])
            k = int((1.0 - sparse) * flat.numel())
            if k < 1:
                continue
            threshold = torch.sort(flat).values[k - 1]
            for name in names:
                layers[name].weight_mask.copy_(scores[name] > threshold)
    return {name: layer.weight_mask.bool() for name, layer in layers.items()}


class ReferenceNet(nn.Module):
    """The network of the reference masks."""

    def __init__(self) -> None:
        super().__init__()
        channels = [3, 16, 32, 64, 64]
        draw = np.random.RandomState(0)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(channels))
        self.bns = nn.ModuleList(nn.BatchNorm2d(b) for b in channels[1:])
        self.fc = nn.Linear(64, 10)
        with torch.no_grad():
            for layer in (*self.convs, self.fc):
                fan_in = layer.weight[0].numel()
                drawn = draw.standard_normal(tuple(layer.weight.shape)) * np.sqrt(2 / fan_in)
                layer.weight.copy_(torch.from_numpy(drawn.astype(np.float32)))
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        for number, (conv, norm) in enumerate(zip(self.convs, self.bns, strict=True)):
            x = F.relu(norm(conv(x)))
            if number:
                x = F.max_pool2d(x, 2)
        return self.fc(F.avg_pool2d(x, 4).flatten(1))


def reference_batch() -> tuple[Tensor, Tensor]:
    """Its batch: float64 images and labels."""
    x = np.random.RandomState(1).standard_normal((64, 3, 32, 32)).astype(np.float16)
    return torch.from_numpy(x.astype(np.float64)), torch.arange(64) % 10
