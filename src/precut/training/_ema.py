"""A running average of a model's weights and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from precut.training._recipe import Recipe

__all__ = ["WeightAverage"]


class WeightAverage:
    """An exponential moving average of everything floating in ``model.state_dict()``.

    Batch norm's running statistics are averaged like the weights, rather than measured again for the averaged weights:
    that costs no pass over the data, and as the rate falls to zero both agree.

    With "ema" update u (counted from 0) uses the decay min(d, (1 + u) / (10 + u)), so that the first weights are soon
    forgotten; with "lookahead" d * ((step + 1) / steps)^3, and the average is put back into the model. Here d is
    ``average_decay ** average_every``.

    Args:
        model: averaged; its tensors are copied now.
        recipe: gives ``average``, ``average_decay`` and ``average_every``.
        steps: of the whole training.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps: int) -> None:
        self._model = model
        self._every = recipe.average_every
        self._decay = recipe.average_decay**recipe.average_every
        self._lookahead = recipe.average == "lookahead"
        self._steps = steps
        self.tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        found: dict[int, tuple[str, Tensor]] = {}  # a tensor that has several names is averaged once
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                found.setdefault(id(tensor), (name, tensor.detach()))
        return dict(found.values())

    def decay(self, step: int) -> float:
        """The decay of the update after ``step`` (counted from 0)."""
        if self._lookahead:
            return self._decay * ((step + 1) / self._steps) ** 3
        update = (step + 1) // self._every - 1
        return min(self._decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """To be called after every optimiser step; most do nothing if ``average_every`` is above 1."""
        if (step + 1) % self._every:
            return
        weight = 1 - self.decay(step)
        for name, tensor in self._live().items():
            average = self.tensors[name]
            average.lerp_(tensor.to(average.dtype), weight)
            if self._lookahead:
                tensor.copy_(average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model holds the average; afterwards its own weights again."""
        live = self._live()
        own = {name: tensor.clone() for name, tensor in live.items()}
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(self.tensors[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in live.items():
                    self.tensors[name].copy_(tensor)  # buffers may have been made equal between processes
                    tensor.copy_(own[name])

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the averages of a checkpoint."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
