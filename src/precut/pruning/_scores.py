"""What a score is: one saliency for each weight. It knows nothing of budgets.

A new one is a class with ``__call__`` and one registry line; a user's own function of a Network does as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from precut.pruning._network import Network
from precut.pruning._registry import scores

__all__ = ["Magnitude", "Random", "Score"]


class Score(ABC):
    """One number for each weight; the highest are kept.

    Attributes:
        needs_data: whether it looks at ``data`` and ``loss``.
        regrows: whether its numbers for weights that are gone mean something, so that these may come back in a later
            round.
        rounds: how many its paper takes.
    """

    needs_data: ClassVar[bool] = False
    regrows: ClassVar[bool] = False
    rounds: ClassVar[int] = 1

    @abstractmethod
    def __call__(self, network: Network) -> dict[str, torch.Tensor]:
        """``{layer name: tensor of the dense weight's shape}``, floating point, for every layer of
        ``network.layers``, with ``network.masks`` applied."""


@scores.register("random")
class Random(Score):
    """Independent normal draws."""

    def __call__(self, network: Network) -> dict[str, torch.Tensor]:
        return {name: network.draw(layer.weight) for name, layer in network.layers.items()}


@scores.register("magnitude")
class Magnitude(Score):
    """|w|."""

    def __call__(self, network: Network) -> dict[str, torch.Tensor]:
        return {name: layer.weight.detach().abs() for name, layer in network.layers.items()}
