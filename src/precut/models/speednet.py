"""speednet: a small network that trains fast, after airbench94 (K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a
Single GPU", arXiv 2404.00498, 2024).

A 2x2 stem whose filters may be set to whiten the training images' patches, three groups of two 3x3 convolutions with a
2x2 max pool inside, a global max pool and a linear layer whose output is scaled by 1/9. Unlike airbench94, batch norm
is torch's (trained scale, default momentum), the stem is trained, and the last pool takes any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from precut.errors import PrecutError
from precut.models._blocks import Scale, activation_of, init_he_, is_counts, scale_width
from precut.models._registry import register

__all__ = ["SpeedNet", "init_whitening_"]

WIDTHS = (64, 256, 256)
_WHITENING_EPS = 5e-4
_CHUNK = 512


class SpeedGroup(nn.Module):
    """conv3x3, max pool 2, batch norm, activation, conv3x3, batch norm, activation."""

    def __init__(self, in_channels: int, out_channels: int, activation: str, identity_init: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.act1 = activation_of(activation)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.act2 = activation_of(activation)
        init_he_(self, "fan_in")
        if identity_init:
            for conv in (self.conv1, self.conv2):
                nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.pool(self.conv1(x))))
        return self.act2(self.norm2(self.conv2(x)))


class SpeedNet(nn.Module):
    """The network; its stem has 8 filters for each input channel (24 for RGB): a patch basis and its negatives."""

    def __init__(
        self, num_classes: int, in_channels: int, widths: Sequence[int], activation: str, identity_init: bool
    ) -> None:
        super().__init__()
        stem_width = 2 * 4 * in_channels
        self.stem = nn.Conv2d(in_channels, stem_width, 2)
        self.stem_act = activation_of(activation)
        channels = [stem_width, *widths]
        self.groups = nn.Sequential(
            *(SpeedGroup(before, after, activation, identity_init) for before, after in pairwise(channels))
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels[-1], num_classes, bias=False)
        self.scale = Scale(1 / 9)
        init_he_(self.stem, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.stem_act(self.stem(x)))
        return self.scale(self.head(self.flatten(self.pool(x))))


@register("speednet", min_input_size=9)
def speednet(
    num_classes: int,
    input_size: int,
    in_channels: int,
    width_mult: float,
    *,
    widths: Sequence[int] | None = None,
    activation: str = "relu",
    identity_init: bool = False,
) -> SpeedNet:
    """speednet.

    Args:
        widths: the three groups' widths, (64, 256, 256) unless given; taken as they are, so ``width_mult`` must be 1.
        activation: ``"relu"`` or, as in airbench94, ``"gelu"``.
        identity_init: as in airbench94, the first filters of each group's convolutions start as the identity.
    """
    if widths is None:
        widths = [scale_width(width, width_mult) for width in WIDTHS]
    elif width_mult != 1:
        raise PrecutError(f"speednet got widths={widths!r} and width_mult={width_mult!r}: pass one of the two")
    if not is_counts(widths, len(WIDTHS)):
        raise PrecutError(f"speednet's widths must be three whole numbers above 0 such as {WIDTHS}, got {widths!r}")
    return SpeedNet(num_classes, in_channels, widths, activation, identity_init)


@torch.no_grad()
def init_whitening_(model: nn.Module, images: Tensor) -> None:
    """Sets the stem of a speednet so that it whitens the 2x2 patches of ``images``, in place.

    Filters are the eigenvectors of the patches' covariance, largest eigenvalue first, each divided by the root of its
    eigenvalue, then their negatives; the bias takes the mean patch away. Before its activation the stem's first half
    then has mean 0 and (but for a small damping of weak directions) unit covariance over ``images``.

    Args:
        model: a speednet whose stem is dense.
        images: float (N, C, H, W), normalised as in training; some thousands are enough.
    """
    stem = getattr(model, "stem", None)
    if not isinstance(stem, nn.Conv2d) or stem.kernel_size != (2, 2) or stem.out_channels != 8 * stem.in_channels:
        raise PrecutError(
            f"init_whitening_ needs a speednet whose stem is a dense 2x2 nn.Conv2d, got {type(model).__name__} with "
            f"stem {stem!r}; call it before sparsify, or keep the stem dense with ignored_layers=['stem']"
        )
    expected = (stem.in_channels,)
    if images.ndim != 4 or not images.is_floating_point() or images.shape[1:2] != expected or images.shape[0] == 0:
        raise PrecutError(
            f"init_whitening_ needs normalised float images (N, {stem.in_channels}, H, W), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    mean, covariance = _patch_moments(images)
    values, vectors = torch.linalg.eigh(covariance)
    basis = (vectors / (values.clamp(min=0) + _WHITENING_EPS).sqrt()).flip(1).T
    filters = torch.cat([basis, -basis])
    stem.weight.copy_(filters.reshape(stem.weight.shape))
    if stem.bias is not None:
        stem.bias.copy_(-filters @ mean)


def _patch_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (4 C) and covariance (4 C, 4 C) of all 2x2 patches, in float64; chunked, since patches are 4 times as many
    numbers as the images."""
    size = 4 * images.shape[1]
    total = torch.zeros(size, dtype=torch.float64, device=images.device)
    products = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    count = 0
    for chunk in images.split(_CHUNK):
        patches = nn.functional.unfold(chunk, 2).double().transpose(1, 2).reshape(-1, size)
        total += patches.sum(0)
        products += patches.T @ patches
        count += len(patches)
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)
