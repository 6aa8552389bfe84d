"""Loss and accuracy of a model on a split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from precut.data import BatchLoader
from precut.errors import PrecutError, unknown

if TYPE_CHECKING:
    from precut.data import Dataset, LazySplit, Split

__all__ = ["check_logits", "evaluate", "evaluating", "totals"]


def evaluate(
    model: nn.Module,
    split: Split | LazySplit | str,
    dataset: Dataset,
    batch_size: int = 1000,
    device: torch.device | str | None = None,
    precision: str = "32-true",
    flip: bool = False,
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (both over images; accuracy between 0 and 1), in eval mode.

    Every module's training flag is put back afterwards, and nothing in the model changes.

    Args:
        model: takes normalised float32 images (B, C, H, W), gives logits (B, classes).
        split: what to evaluate on, or "train" or "test" of ``dataset``.
        dataset: gives mean, deviation and classes.
        batch_size: images a forward pass; the result does not depend on it but for rounding.
        device: where the model lies; that of its first parameter if None.
        precision: "32-true", or "bf16-mixed" for bfloat16 autocast.
        flip: take the mean of the logits of each image and its mirror image.

    Raises:
        PrecutError: unknown split or precision, or the model gives another number of classes.
    """
    if isinstance(split, str):
        if split not in ("train", "test"):
            raise unknown("split", split, ("train", "test"))
        split = dataset.train if split == "train" else dataset.test
    if precision not in ("32-true", "bf16-mixed"):
        raise unknown("precision", precision, ("32-true", "bf16-mixed"))
    if device is None:
        first = next(model.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
    loader = BatchLoader(split, batch_size, dataset.mean, dataset.std, device=device)
    loss, correct, count = totals(model, loader, len(dataset.classes), precision, flip).tolist()
    return loss / count, correct / count


@torch.no_grad()
def totals(model: nn.Module, loader: BatchLoader, classes: int, precision: str, flip: bool = False) -> Tensor:
    """(sum of losses, number right, number of images) over ``loader``: float64 of shape (3,) on the CPU."""
    result = torch.zeros(3, dtype=torch.float64)
    with evaluating(model):
        for images, labels in loader:
            cast = nullcontext() if precision == "32-true" else torch.autocast(images.device.type, torch.bfloat16)
            with cast:
                logits = model(images)
                check_logits(logits, len(labels), classes)
                logits = logits.float()
                if flip:
                    logits = (logits + model(images.flip(3)).float()) / 2
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            right = (logits.argmax(1) == labels).sum()
            result += torch.tensor([loss.item(), right.item(), len(labels)], dtype=torch.float64)
    return result


def check_logits(logits: object, images: int, classes: int) -> None:
    """Raise a PrecutError if a model's output is not one row of logits an image."""
    given = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if given != (images, classes):
        raise PrecutError(
            f"the model gave {given} for {images} images of {classes} classes; "
            f"expected ({images}, {classes}): create it with num_classes={classes}"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within; afterwards every module's own flag again (some may be frozen in eval mode on purpose)."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
