"""What a training step minimises, and what epochs are judged by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from precut.training._evaluate import check_logits, totals

if TYPE_CHECKING:
    from precut.data import BatchLoader
    from precut.training._callback import TrainState

__all__ = ["Objective"]


class Objective:
    """Cross-entropy of one network. Override to train several at once."""

    def config(self) -> dict[str, Any]:
        """JSON-able settings; they belong to the run's configuration."""
        return {}

    def networks(self, model: nn.Module) -> Iterator[nn.Module]:
        """All networks that a step may run."""
        yield model

    def backward(
        self, state: TrainState, wrapped: nn.Module, images: Tensor, labels: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Adds one batch's gradients to the parameters.

        Args:
            state: the run; ``state.fabric.backward`` takes the gradients.
            wrapped: the model as Fabric set it up.
            classes: how many logits an image has.

        Returns:
            (loss, detached; logits, whose accuracy is shown as the training accuracy).
        """
        logits = wrapped(images)
        check_logits(logits, len(labels), classes)
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=state.recipe.label_smoothing)
        state.fabric.backward(loss)
        return loss.detach(), logits.detach()

    def totals(self, model: nn.Module, loader: BatchLoader, classes: int, precision: str) -> Tensor:
        """(sum of losses, number right, number of images) on validation images: float64 of shape (3,), CPU."""
        return totals(model, loader, classes, precision)
