"""Train a model by a recipe."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from precut import checkpoint
from precut._environment import environment
from precut.data import Augment, BatchLoader
from precut.errors import PrecutError
from precut.training._callback import Callback, TrainState
from precut.training._config import describe_model, fingerprint
from precut.training._devices import make_fabric, resolve_device, resolve_precision
from precut.training._ema import WeightAverage
from precut.training._evaluate import evaluate
from precut.training._init import initialise_
from precut.training._layout import layout
from precut.training._loop import Loop
from precut.training._memory import kept_memory
from precut.training._objective import Objective
from precut.training._optim import build_optimizer
from precut.training._progress import Progress, make_progress
from precut.training._recipe import Recipe, load_recipe
from precut.training._run import RunFolder
from precut.training._state import get_rng, read_tree, set_rng

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from precut.data import Dataset

__all__ = ["FitResult", "fit"]


@dataclass(frozen=True)
class FitResult:
    """What came of a run. Accuracies are between 0 and 1.

    Attributes:
        test_accuracy, test_loss: of the chosen epoch's weights on the test split, in 32-bit precision and eval mode.
        test_accuracy_flip: the same by the mean over each image and its mirror image; None unless the recipe asks.
        val_accuracy, val_loss: of the chosen epoch on the validation images; None without any.
        best_epoch: the chosen epoch, counted from 1.
        seconds: time of all epochs, validation included; work that a crash lost is not in it.
        history: a row for each epoch, as in ``metrics.csv``.
    """

    test_accuracy: float
    test_loss: float
    test_accuracy_flip: float | None
    val_accuracy: float | None
    val_loss: float | None
    best_epoch: int
    seconds: float
    history: list[dict[str, Any]] = field(repr=False)


def fit(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe | str | Path = "modern-cifar",
    run_dir: str | Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    precision: str | None = None,
    resume: bool = False,
    progress: bool = True,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    checkpoint_steps: int | None = None,
    checkpoint_seconds: float | None = 300.0,
    fabric: Fabric | None = None,
    objective: Objective | None = None,
) -> FitResult:
    """Train ``model`` in place; it ends with the weights of the best epoch on the validation images.

    The test split is looked at once, after the last epoch, and decides nothing. Under ``torchrun`` the recipe's batch
    is shared by all processes, on one machine or several; on several, ``run_dir`` must lie where all can read it.
    Batch-norm statistics then come from each process's share, and the first process's are kept.

    Args:
        model: takes normalised float32 images (B, C, H, W), gives logits (B, classes).
        dataset: see :func:`precut.data.load`; validation images come out of its training split.
        recipe: a Recipe, the name of one, or a YAML file.
        run_dir: where to keep the run: ``config.json``, ``env.json``, ``metrics.csv``, ``state.safetensors``,
            ``best.safetensors``, ``model.safetensors`` and ``result.json``; None keeps nothing.
        seed: of the order of the images, their augmentation, and dropout. The initial weights are the model's own. The
            global random generators are left as they were.
        threads: of torch; None for what a resumed run began with, else the current number.
        device: "cpu", "cuda", "cuda:1" or "mps".
        precision: overrides the recipe's.
        resume: go on with the run in ``run_dir``, bit for bit as if it had not stopped if the machine is the same;
            begin it if there is none; give its result if it is finished.
        progress: show how it goes, on standard error.
        overwrite: throw away what ``run_dir`` holds.
        callbacks: see :class:`Callback`.
        checkpoint_steps, checkpoint_seconds: checkpoint within an epoch after so many steps, or seconds; None for only
            at its end.
        fabric: a launched Lightning Fabric of your own, instead of ``device`` and ``precision``.
        objective: what a step minimises and epochs are judged by; the network's own cross-entropy if None.

    Raises:
        PrecutError: something that was passed cannot be used, or the loss became infinite or not a number.
        TrainingInterrupted: Ctrl-C or SIGTERM came; the run can be resumed.
    """
    plan = load_recipe(recipe)
    if hasattr(model, "_orig_mod"):
        raise PrecutError("fit got what torch.compile made; pass the model itself, and compile it when it is trained")
    if checkpoint_steps is not None and checkpoint_steps < 1:
        raise PrecutError(f"fit got checkpoint_steps={checkpoint_steps}; expected at least 1, or None")
    run = None if run_dir is None else RunFolder(run_dir)
    if run is None and (resume or overwrite):
        raise PrecutError(f"fit got {'resume' if resume else 'overwrite'}=True without a run_dir")
    if threads is None and resume and run is not None:
        threads = run.recorded_threads()
    with _threads(threads), _own_generators(), kept_memory():
        if fabric is None:
            place = resolve_device(device)
            fabric = make_fabric(place, resolve_precision(precision or plan.precision, place))
        elif precision is not None:
            raise PrecutError("fit got both fabric and precision; a Fabric has its own precision")
        parts = _Parts(model, dataset, plan, seed, fabric, callbacks, objective)
        config, remark = parts.config(), None
        if run is not None:
            run.check(config, resume, overwrite)
            if not overwrite and (found := run.finished()) is not None:
                return parts.result_of(run, found)
            fabric.barrier()  # nobody writes before everybody has looked
            if fabric.is_global_zero:
                remark = run.begin(config, environment(fabric.device), overwrite)
            fabric.barrier()
        show = make_progress(progress and fabric.is_global_zero, plan.epochs * parts.steps_per_epoch)
        try:
            if remark is not None:
                show.note(remark)
            loop = parts.loop(run, show, checkpoint_steps, checkpoint_seconds)
            loop.restore()
            loop.train()
        finally:
            show.close()
        return parts.finish(loop, run)


class _Parts:
    """What a run is made of, checked against each other before anything is written."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        seed: int,
        fabric: Fabric,
        callbacks: Sequence[Callback],
        objective: Objective | None,
    ) -> None:
        self.model, self.dataset, self.recipe, self.seed = model, dataset, recipe, seed
        self.objective = objective
        self.fabric, self.callbacks = fabric, list(callbacks)
        self.layout = layout(recipe.channels_last, fabric.device, (objective or Objective()).networks(model))
        self.precision = str(fabric.strategy.precision.precision)
        self.train: Any
        self.val: Any
        self.train, self.val = recipe.split(dataset)
        world = fabric.world_size
        if recipe.batch_size % world:
            raise PrecutError(
                f"recipe batch_size={recipe.batch_size} cannot be shared by {world} processes; "
                f"expected a multiple of {world}"
            )
        if recipe.drop_last and len(self.train) < recipe.batch_size:
            raise PrecutError(
                f"recipe batch_size={recipe.batch_size} with drop_last leaves no batch: there are {len(self.train)} "
                "training images; use a smaller batch"
            )
        self.loader = self._loader(
            self.train,
            recipe.batch_size // world,
            augment=Augment(recipe.crop_padding, recipe.flip, recipe.cutout, recipe.pad_mode, recipe.area),
            shuffle=True,
            seed=seed,
            drop_last=recipe.drop_last,
        )
        self.steps_per_epoch = len(self.loader)
        # Where a batch can be trained on, four times as many images can be evaluated.
        self.eval_batch = min(1000, 4 * recipe.batch_size // world)

    def _loader(self, split: Any, batch_size: int, **options: Any) -> BatchLoader:
        fabric = self.fabric
        return BatchLoader(
            split,
            batch_size,
            self.dataset.mean,
            self.dataset.std,
            device=fabric.device,
            memory_format=self.layout,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            **options,
        )

    def config(self) -> dict[str, Any]:
        """All that decides the result, as JSON gives it back. The test split is not in it."""
        config = {
            "model": describe_model(self.model),
            "dataset": {
                "name": self.dataset.name,
                "train_images": len(self.dataset.train),
                "classes": len(self.dataset.classes),
                "crc32": fingerprint(self.dataset.train),
            },
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "device": self.fabric.device.type,
            "processes": self.fabric.world_size,
            "precision": self.precision,
            "callbacks": [{type(callback).__name__: callback.config()} for callback in self.callbacks],
        }
        if self.objective is not None:
            config["objective"] = {type(self.objective).__name__: self.objective.config()}
        known: dict[str, Any] = json.loads(json.dumps(config))
        return known

    def loop(
        self, run: RunFolder | None, show: Progress, checkpoint_steps: int | None, checkpoint_seconds: float | None
    ) -> Loop:
        """Initialise the model as the recipe says and set everything up on the device."""
        recipe, fabric = self.recipe, self.fabric
        _seed_all(self.seed + 1_000_003 * fabric.global_rank)  # dropout must differ between processes
        initialise_(self.model, self.dataset, recipe, self.seed, self.train)
        self.model.to(fabric.device)
        self.model.to(memory_format=self.layout)  # type: ignore[call-overload]  # plain too: it may come channels last
        optimizer = build_optimizer(self.model, recipe)
        wrapped, wrapped_optimizer = fabric.setup(self.model, optimizer)
        steps = recipe.epochs * self.steps_per_epoch
        average = None if recipe.average == "none" else WeightAverage(self.model, recipe, steps)
        state = TrainState(
            self.model, optimizer, recipe, fabric, average, steps_per_epoch=self.steps_per_epoch, steps=steps
        )
        for callback in self.callbacks:
            callback.on_fit_start(state)
        validation = None if self.val is None else self._loader(self.val, self.eval_batch)
        return Loop(
            state,
            wrapped,
            wrapped_optimizer,
            self.loader,
            validation,
            len(self.dataset.classes),
            self.precision,
            self.callbacks,
            run,
            show,
            checkpoint_steps,
            checkpoint_seconds,
            self.objective or Objective(),
        )

    def finish(self, loop: Loop, run: RunFolder | None) -> FitResult:
        """Put the best epoch's weights into the model, save it, and measure it on the test split."""
        best = loop.best
        assert best is not None
        self._load_best(best)
        if run is not None and self.fabric.is_global_zero:
            extra = {
                "recipe": self.recipe.to_dict(),
                "seed": self.seed,
                "dataset": self.dataset.name,
                "image_shape": list(self.dataset.image_shape),
                "best_epoch": best["epoch"],
                "val_accuracy": best["val_accuracy"],
            }
            checkpoint.save(self.model, run.model, extra)
        history = loop.state.history
        loss, accuracy = evaluate(self.model, "test", self.dataset, self.eval_batch)
        flipped = None
        if self.recipe.test_flip:
            flipped = evaluate(self.model, "test", self.dataset, self.eval_batch, flip=True)[1]
        result = FitResult(
            test_accuracy=accuracy,
            test_loss=loss,
            test_accuracy_flip=flipped,
            val_accuracy=best["val_accuracy"],
            val_loss=best["val_loss"],
            best_epoch=best["epoch"],
            seconds=round(sum(row["seconds"] for row in history), 3),
            history=history,
        )
        if run is not None and self.fabric.is_global_zero:
            run.finish(asdict(result))
        self.fabric.barrier()
        return result

    def result_of(self, run: RunFolder, found: dict[str, Any]) -> FitResult:
        """The result of a finished run; the model gets its weights."""
        self.loop(run, make_progress(False, 0), None, None)  # for the callbacks, which must know the model
        self._load_best(read_tree(run.best))
        return FitResult(**found)

    def _load_best(self, best: dict[str, Any]) -> None:
        for callback, kept in zip(self.callbacks, best["callbacks"], strict=True):
            callback.load_state_dict(kept)
        self.model.load_state_dict(best["model"])


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def _own_generators() -> Iterator[None]:
    """Global random generators and cuDNN's switches are the caller's again afterwards."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else torch.device("cpu")
    before = get_rng(device)
    switches = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = switches
        set_rng(before, device)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        if count < 1:
            raise PrecutError(f"fit got threads={count}; expected at least 1, or None for torch's current number")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
