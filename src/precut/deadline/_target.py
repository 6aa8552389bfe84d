"""What can be profiled and run: a callable with an accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precut import checkpoint
from precut.data import BatchLoader
from precut.data import load as load_data
from precut.engine import compile as compile_model
from precut.errors import PrecutError, unknown

__all__ = ["Target", "load_targets", "served"]

_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Target:
    """Something that answers, before its time is known.

    Attributes:
        name: what reports and traces will call it.
        run: takes the inputs of a batch and gives its answers.
        accuracy: share of right answers, 0 to 1.
        memory_bytes, correct: as in Point.
    """

    name: str
    run: Callable[..., Any]
    accuracy: float
    memory_bytes: int | None = None
    correct: Sequence[bool] | None = None


def served(model: nn.Module, device: torch.device | str = "cpu") -> Callable[..., torch.Tensor]:
    """``model`` as a service runs it: inputs come from the CPU's memory, answers go back there, and only then is a call
    over. So its time counts transfers, and nothing of it is still under way on the device.

    Args:
        model: put into eval mode and moved to ``device``.
        device: "cpu", "cuda", ...
    """
    place = torch.device(device)
    model = model.eval().to(place)

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            # .cpu() waits for the device
            return model(*(tensor.to(place) for tensor in inputs)).cpu()

    return run


def load_targets(
    paths: Sequence[str | Path],
    data: str | None = None,
    *,
    data_root: str | Path | None = None,
    split: str = "val",
    batch: int = 1,
    threads: int | None = None,
) -> tuple[list[Target], torch.Tensor]:
    """Saved models, compiled, with their accuracy measured on the compiled network; and an example batch of real images.

    Args:
        paths: ``model.safetensors`` files of precut, or run folders that hold one. A target's name is its file's, or its
            folder's where the file is called ``model``.
        data: the dataset; by default what the first model says that it was trained on.
        data_root: where datasets lie.
        split: "val", the images that training held out to choose the epoch by, or "test".
        batch: images of the example.
        threads: of a compiled call.

    Raises:
        PrecutError: no models, two with one name, or one that does not say what it was trained on.
    """
    if split not in _SPLITS:
        raise unknown("split", split, _SPLITS)
    files = [Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path) for path in paths]
    if not files:
        raise PrecutError("there is no model to profile; name saved models, or folders of runs")
    names = [file.parent.name if file.stem == "model" else file.stem for file in files]
    for name in names:
        if names.count(name) > 1:
            raise PrecutError(f"two models are named {name!r}; a model's name is its file's, or its run folder's")
    extras = [checkpoint.read_spec(file)["extra"] for file in files]
    wanted = data or extras[0].get("dataset")
    if wanted is None:
        raise PrecutError(f"{str(files[0])!r} does not say what it was trained on; pass --data NAME")
    dataset = load_data(wanted, root=data_root)
    images = dataset.test
    if split == "val":
        recipe = extras[0].get("recipe") or {}
        if not recipe.get("val_count"):
            raise PrecutError(f"{str(files[0])!r} was trained without validation images; take --split test")
        images = dataset.split_validation(recipe["val_count"], seed=recipe.get("val_seed", 0))[1]
    loader = BatchLoader(images, max(batch, 100), dataset.mean, dataset.std)
    example = next(iter(BatchLoader(images, batch, dataset.mean, dataset.std)))[0]
    targets = []
    for name, file in zip(names, files, strict=True):
        model = checkpoint.load(file)
        compiled = compile_model(model, example, threads=threads)
        correct = [right for batch_ in loader for right in _right(compiled, *batch_)]
        memory = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        targets.append(Target(name, compiled, sum(correct) / len(correct), memory, correct))
    return targets, example


def _right(run: Callable[..., Any], images: torch.Tensor, labels: torch.Tensor) -> list[bool]:
    return (run(images).argmax(1) == labels).tolist()
