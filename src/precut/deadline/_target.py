"""What can be profiled and run: a callable with an accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precut import checkpoint
from precut.data import BatchLoader, Dataset, LazySplit, Split
from precut.data import load as load_data
from precut.engine import compile as compile_model
from precut.errors import PrecutError, unknown
from precut.training import check_logits

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
    specs = [checkpoint.read_spec(file) for file in files]
    trained_on = [spec["extra"].get("dataset") for spec in specs]
    wanted = data or trained_on[0]
    if wanted is None:
        raise PrecutError(f"{str(files[0])!r} does not say what it was trained on; pass --data NAME")
    if data is None and len(set(trained_on)) > 1:
        told = ", ".join(f"{name} on {it!r}" for name, it in zip(names, trained_on, strict=True))
        raise PrecutError(f"these models were trained on different data ({told}); name the data to judge them by")
    dataset = load_data(wanted, root=data_root)
    images = dataset.test if split == "test" else _held_out(dataset, files, specs)
    loader = BatchLoader(images, max(batch, 100), dataset.mean, dataset.std)
    example = next(iter(BatchLoader(images, batch, dataset.mean, dataset.std)))[0]
    targets = []
    for name, file, spec in zip(names, files, specs, strict=True):
        model = checkpoint.load(file)
        run = _compiled(model, example, (spec["model"] or {}).get("kwargs", {}).get("input_size"), threads)
        check_logits(run(example), len(example), dataset.num_classes)
        correct = [right for images_, labels in loader for right in (run(images_).argmax(1) == labels).tolist()]
        memory = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        targets.append(Target(name, run, sum(correct) / len(correct), memory, correct))
    return targets, example


def _compiled(
    model: nn.Module, example: torch.Tensor, side: int | None, threads: int | None
) -> Callable[..., torch.Tensor]:
    """The compiled model; one for smaller images brings them to their size itself, as part of its time."""
    if side is None or side == example.shape[-1]:
        return compile_model(model, example, threads=threads)

    def smaller(images: torch.Tensor) -> torch.Tensor:
        # torch's own number of threads is the process's: on a busy machine a second one makes this slower than the network
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            return nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        finally:
            torch.set_num_threads(before)

    inner = compile_model(model, smaller(example), threads=threads)
    return lambda images: inner(smaller(images))


def _held_out(dataset: Dataset, files: Sequence[Path], specs: Sequence[dict[str, Any]]) -> Split | LazySplit:
    """The images that no model's training saw, which chose its epoch."""
    draws = set()
    for file, spec in zip(files, specs, strict=True):
        recipe = spec["extra"].get("recipe") or {}
        if not recipe.get("val_count") or spec["extra"].get("dataset") != dataset.name:
            raise PrecutError(
                f"{str(file)!r} was trained on {spec['extra'].get('dataset')!r} with {recipe.get('val_count', 0)} validation "
                f"images, so which images of {dataset.name!r} it did not see is not known; take --split test"
            )
        draws.add((recipe["val_count"], recipe.get("val_seed", 0)))
    if len(draws) > 1:
        raise PrecutError("these models were trained with different validation images; take --split test")
    count, seed = draws.pop()
    return dataset.split_validation(count, seed=seed)[1]
