"""Parameter groups, optimisers and the schedule of the learning rate."""

from __future__ import annotations

import bisect
import math
from typing import Any

import torch
from torch import nn

from precut.errors import PrecutError
from precut.training._muon import Muon
from precut.training._recipe import Recipe

__all__ = ["build_optimizer", "lr_factor", "param_groups", "set_rates"]

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
)


def param_groups(model: nn.Module, weight_decay: float = 5e-4) -> list[dict[str, Any]]:
    """Parameter groups for any ``torch.optim`` optimiser: weight decay on weights, none on norms and biases.

    A tensor of two or more dimensions decays, one of fewer does not; the compact weights of sparse layers have two.
    Parameters that do not require a gradient are left out; a shared one is listed once. Empty groups are left out.

    Args:
        model: any module.
        weight_decay: of the first group.

    Returns:
        ``[{"params": [...], "weight_decay": weight_decay}, {"params": [...], "weight_decay": 0.0}]``, in the order of
        ``model.parameters()``.

    Raises:
        PrecutError: ``weight_decay`` is negative, or nothing in the model trains.
    """
    if not weight_decay >= 0:
        raise PrecutError(f"weight_decay={weight_decay!r}: expected a number of at least 0")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise PrecutError(f"{type(model).__name__} has no parameter that requires a gradient: nothing to train")
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": float(weight_decay)},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over ``model``. Every group keeps its highest rate as ``group["peak_lr"]``."""
    groups = []
    norm_biases = {
        id(module.bias)
        for module in model.modules()
        if isinstance(module, _NORMS) and getattr(module, "bias", None) is not None
    }
    for group in param_groups(model, recipe.weight_decay):
        matrices = group["params"][0].dim() >= 2
        decay = recipe.weight_decay if matrices or recipe.decay_all else 0.0
        lr = recipe.lr if matrices or recipe.vector_lr is None else recipe.vector_lr
        parts = {1.0: group["params"]}
        if not matrices and recipe.bias_lr_scale != 1:
            parts = {
                1.0: [p for p in group["params"] if id(p) not in norm_biases],
                recipe.bias_lr_scale: [p for p in group["params"] if id(p) in norm_biases],
            }
        groups += [
            # SGD multiplies decay by rate: divided, so that a scaled rate leaves the decay of a step as it was
            {"params": params, "weight_decay": decay / scale, "peak_lr": lr * scale}
            for scale, params in parts.items()
            if params
        ]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    elif recipe.optimizer == "muon":
        optimizer = Muon(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    else:
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    return optimizer


def lr_factor(recipe: Recipe, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate of a step as a share of the highest rate.

    A step takes the schedule's value at its middle, at the share p = (step + 1/2) / steps of the training, so that
    neither the first nor the last step is lost to a rate of zero. With w = warmup, i = initial_lr, f = final_lr:

    - rise, p < w: i + (1 - i) p / w
    - "one-cycle", p >= w: 1 - (1 - f) (p - w) / (1 - w)
    - "cosine", p >= w: f + (1 - f) (1 + cos(pi (p - w) / (1 - w))) / 2
    - "multistep", p >= w: gamma ** (number of milestones that are not above the epoch)
    - "constant", p >= w: 1

    Args:
        recipe: names the schedule.
        step: counted from 0.
        steps: of the whole training.
        steps_per_epoch: for milestones.
    """
    progress = (step + 0.5) / steps
    if progress < recipe.warmup:
        return recipe.initial_lr + (1 - recipe.initial_lr) * progress / recipe.warmup
    fallen = (progress - recipe.warmup) / (1 - recipe.warmup)
    if recipe.schedule == "one-cycle":
        return 1 - (1 - recipe.final_lr) * fallen
    if recipe.schedule == "cosine":
        return recipe.final_lr + (1 - recipe.final_lr) * (1 + math.cos(math.pi * fallen)) / 2
    if recipe.schedule == "multistep":
        return recipe.gamma ** bisect.bisect_right(recipe.milestones, step // steps_per_epoch)
    return 1.0


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group ``factor`` of its highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
