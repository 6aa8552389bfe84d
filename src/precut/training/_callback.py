"""Where other code takes part in training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut.training._ema import WeightAverage
from precut.training._recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Callback", "TrainState"]


@dataclass
class TrainState:
    """A run as callbacks see it, and may change it.

    Attributes:
        model: the model that is trained, unwrapped, with its own (not the averaged) weights.
        optimizer: steps it; ``group["peak_lr"]`` is a group's highest rate.
        recipe: of the run.
        fabric: devices and processes.
        average: the running average of the weights, or None.
        steps_per_epoch, steps: of an epoch, of the whole training.
        epoch: epochs that have ended.
        batch: batches of the current epoch that have ended.
        step: steps that have ended.
        loss: of the last step, in this process; detached.
        history: one row for each epoch that has ended.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    fabric: Fabric
    average: WeightAverage | None
    steps_per_epoch: int
    steps: int
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: torch.Tensor | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class Callback:
    """Takes part in training. Override what is needed; every method does nothing here.

    A run with callbacks resumes bit for bit if all they know is in ``state_dict`` and all that they change is in the
    model, the optimiser, the average or there.
    """

    def config(self) -> dict[str, Any]:
        """JSON-able settings. They belong to the run's configuration: a run is not resumed with others."""
        return {}

    def on_fit_start(self, state: TrainState) -> None:
        """Before the first step, and before ``load_state_dict`` when a run is resumed."""

    def on_step_start(self, state: TrainState) -> None:
        """Before the forward pass; the rates are set, and the gradients are gone."""

    def on_step_end(self, state: TrainState) -> None:
        """After the optimiser's step, before the average takes the weights in; the gradients are still there."""

    def on_epoch_end(self, state: TrainState) -> None:
        """After validation, before the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """What it must remember: nested dicts and lists of tensors, numbers and strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave, in the model too where it is not in the model's own state_dict. Called
        before the model's weights are loaded; on resuming, and when the best epoch's weights are put back."""
