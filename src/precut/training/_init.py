"""What a recipe makes of the initial weights: those of the authors of the pre-defined sparse kernels, whitened stems."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut.data import BatchLoader
from precut.models import init_whitening_
from precut.models.speednet import SpeedNet

if TYPE_CHECKING:
    from precut.data import Dataset, LazySplit, Split
    from precut.training._recipe import Recipe

__all__ = ["init_kundu_", "initialise_", "whiten_stem_"]

_WHITENING_IMAGES = 5000


def initialise_(
    model: nn.Module, dataset: Dataset, recipe: Recipe, seed: int, train: Split | LazySplit | None = None
) -> Recipe:
    """Gives ``model`` the weights that ``recipe`` begins with, in place, as :func:`fit` does first.

    Call it before weights are scored, so that they are those that will be trained, and give :func:`fit` what it returns.

    Args:
        seed: of the weights, where the recipe draws them.
        train: see :func:`whiten_stem_`.

    Returns:
        The recipe that keeps these weights.
    """
    if recipe.init == "kundu":
        init_kundu_(model, torch.Generator().manual_seed(seed))
    whiten_stem_(model, dataset, recipe, train)
    return recipe.replace(init="model")


def whiten_stem_(model: nn.Module, dataset: Dataset, recipe: Recipe, train: Split | LazySplit | None = None) -> None:
    """Sets a speednet's stem from the images that ``recipe`` trains on, in place; nothing where it does not ask for it.

    Args:
        model: any module; other networks than a speednet stay as they are.
        dataset: its validation images, which the recipe holds out, are not looked at.
        train: what the recipe trains on, where it is split off already: splitting copies all images.
    """
    if recipe.whiten and isinstance(model, SpeedNet):
        found: Any = recipe.split(dataset)[0] if train is None else train
        images = BatchLoader(found, min(_WHITENING_IMAGES, len(found)), dataset.mean, dataset.std)
        init_whitening_(model, next(iter(images))[0])


@torch.no_grad()
def init_kundu_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draws the weights as Kundu et al.'s published code does (arXiv 1910.00724, 2001.10710), in place.

    Convolutions: uniform, Xavier with gain 0.5 by the *dense* fans whatever the support keeps, biases 0. Batch norm:
    scale 0.5, shift 0. Linear layers: normal with a deviation of 0.01, biases 0.

    Args:
        model: any module; sparse layers draw the weights that exist.
        generator: where the numbers come from; torch's own if None.
    """
    module: Any
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                nn.init.constant_(module.weight, 0.5)
                nn.init.zeros_(module.bias)
            continue
        kind = getattr(module, "precut_op", None)
        if isinstance(module, nn.Conv2d) or kind == "conv2d":
            shape = getattr(module, "dense_shape", None) or module.weight.shape
            receptive = math.prod(shape[2:])
            bound = 0.5 * math.sqrt(6 / ((shape[0] + shape[1]) * receptive))
            module.weight.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.Linear) or kind == "linear":
            module.weight.normal_(0, 0.01, generator=generator)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()
