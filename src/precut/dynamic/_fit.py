"""Joint training: every step adds the gradients of several subnets."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from precut._files import atomic_write
from precut.data import Dataset
from precut.dynamic._calibrate import recalibrate
from precut.dynamic._cut import Share
from precut.dynamic._metrics import cost
from precut.dynamic._norms import batch_norms
from precut.dynamic._point import Point
from precut.dynamic._space import listed
from precut.errors import PrecutError, real, unknown, whole
from precut.training import FitResult, MovingSupports, Objective, TrainState, evaluate, load_recipe
from precut.training import fit as fit_model

if TYPE_CHECKING:
    from precut.data import BatchLoader
    from precut.dynamic._net import DynamicNet
    from precut.training import Recipe

__all__ = ["MODES", "JointObjective", "JointResult", "fit"]

MODES = ("fixed", "sandwich")
BALANCES = ("sum", "mean")
# What else ``training.fit`` takes, and what of ``fit`` beside it has a name.
_OPTIONS = (
    "seed", "threads", "device", "precision", "resume", "overwrite", "progress", "callbacks", "checkpoint_steps",
    "checkpoint_seconds", "fabric",
)  # fmt: skip
_OWN = ("points", "mode", "sampled", "distill", "weights", "balance", "calibration_images")


@dataclass(frozen=True)
class JointResult:
    """What came of a joint training.

    Attributes:
        points: for each point, in the ladder's order: "point" (plain data), "macs", "params" (counted),
            "test_accuracy", "test_loss".
        run: the run itself; its validation accuracy is the mean over the points, its test accuracy the full network's.
    """

    points: list[dict[str, Any]]
    run: FitResult


def fit(
    dyn: DynamicNet,
    dataset: Dataset,
    recipe: Recipe | str | Path = "modern-cifar",
    run_dir: str | Path | None = None,
    *,
    points: Sequence[Point] | None = None,
    mode: str = "fixed",
    sampled: int = 2,
    distill: float = 0.0,
    weights: Sequence[float] | None = None,
    balance: str = "sum",
    calibration_images: int = 2000,
    **options: Any,
) -> JointResult:
    """Trains the points of a dynamic network together, in place.

    The loss of a step is the weighted sum of the points' cross-entropies; the network ends with the weights of the epoch
    whose mean validation accuracy over the points was best. It starts from the weights that are there: the recipe's
    ``whiten`` and ``init``, which are for fresh networks, are left out.

    Args:
        dataset, recipe, run_dir: as in ``training.fit``; ``model.safetensors`` in the run's folder is the whole dynamic
            network, for ``dynamic.load``.
        points: what to train, the largest first; by default ``dyn.points``.
        mode: "fixed" trains every point in every step (Yang et al., DAC 2020); "sandwich" the first, the last and
            ``sampled`` others, drawn in each step (Yu and Huang, ICCV 2019). What was not drawn in the first epoch is
            judged by statistics measured on ``calibration_images``.
        distill: share of the smaller points' loss that is the cross-entropy with the first point's probabilities,
            detached, instead of the labels (in-place distillation); 1 is Yu and Huang's.
        weights: one for each point; all 1 by default.
        balance: "sum" takes the gradient as it is. "mean" divides each weight's by the summed weights of those of the
            step's points that hold it, so that weights which all points share step no further than others.
        calibration_images: images that statistics are measured on, where ``norms`` is "recalibrated".
        **options: what else ``training.fit`` takes: seed, threads, device, precision, resume, overwrite, progress,
            callbacks, checkpoint_steps, checkpoint_seconds.

    Raises:
        PrecutError: without points, for options that do not fit, or where ``distill`` or a sandwich meets points that do
            not all lie within the first.
    """
    chosen = list(dyn.points) if points is None else listed("points", points, "points")
    if not chosen:
        raise PrecutError(
            "fit has no points to train: call dyn.ladder(...) or dyn.prepare([...]) first, or pass points"
        )
    if not isinstance(dataset, Dataset):
        raise PrecutError(f"fit needs a Dataset (precut.data.load); got {type(dataset).__name__} {dataset!r:.40}")
    for name in options:
        if name not in _OPTIONS:
            raise unknown("option of fit", name, (*_OPTIONS, *_OWN))
    for callback in options.get("callbacks", ()):
        if isinstance(callback, MovingSupports):
            raise PrecutError(
                "the supports of a dynamic network stay: its subnets hold parts of them; leave MovingSupports out"
            )
    dyn.prepare(chosen)
    dyn.keep_only(dyn.points)  # training makes what others know untrue
    seed = options.get("seed", 0)
    objective = JointObjective(dyn, dataset, mode, sampled, distill, weights, balance, calibration_images, seed)
    dyn.set_point(dyn.full)
    if dyn.norms == "recalibrated":
        dyn.forget_statistics()
    plan = load_recipe(recipe).replace(whiten=False, init="model")
    result = fit_model(dyn, dataset, plan, run_dir, objective=objective, **options)
    rows = []
    for point in dyn.points:
        dyn.set_point(point)
        loss, accuracy = evaluate(dyn, "test", dataset)
        rows.append(
            {
                "point": point.to_dict(),
                "macs": int(cost(dyn, point, "macs")),
                "params": int(cost(dyn, point, "params")),
                "test_accuracy": accuracy,
                "test_loss": loss,
            }
        )
    dyn.set_point(dyn.full)
    if run_dir is not None:
        dyn.save(
            Path(run_dir) / "model.safetensors",
            {
                "points": rows,
                "recipe": plan.to_dict(),
                "dataset": dataset.name,
                "image_shape": list(dataset.image_shape),
            },
        )
        atomic_write(Path(run_dir) / "points.json", json.dumps(rows, indent=2) + "\n")
    return JointResult(rows, result)


class JointObjective(Objective):
    """The loss of several points; see :func:`fit`."""

    def __init__(
        self,
        dyn: DynamicNet,
        dataset: Dataset | None,
        mode: str = "fixed",
        sampled: int = 2,
        distill: float = 0.0,
        weights: Sequence[float] | None = None,
        balance: str = "sum",
        calibration_images: int = 2000,
        seed: int = 0,
    ) -> None:
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        if balance not in BALANCES:
            raise unknown("balance", balance, BALANCES)
        self.distill = real("distill", distill, 0, 1, what="share of the loss")
        self.dyn, self.dataset = dyn, dataset
        self.points = list(dyn.points)
        given = [1.0] * len(self.points) if weights is None else weights
        good = isinstance(given, (list, tuple)) and len(given) == len(self.points)
        if not good or not all(isinstance(w, (int, float, np.number)) and 0 < w < math.inf for w in given):
            raise PrecutError(f"weights needs {len(self.points)} numbers above 0, one for each point; got {weights!r}")
        self.weights = [float(weight) for weight in given]
        self.mode, self.sampled = mode, whole("sampled", sampled, 0)
        self.balance = balance
        self._check_order()
        self.calibration_images, self.seed = whole("calibration_images", calibration_images), whole("seed", seed, 0)
        self._scales: dict[tuple[int, ...], dict[str, Tensor]] = {}

    def _check_order(self) -> None:
        """Raises a PrecutError where a point that others learn from, or stand for, is not the one that it should be."""
        for number, point in enumerate(self.points):
            if (self.distill or self.mode == "sandwich") and not point.within(self.points[0]):
                needs = "distill" if self.distill else "mode='sandwich'"
                raise PrecutError(
                    f"{needs} needs the largest point first, which all others lie within; point {number} does not lie "
                    "within point 0"
                )
        if self.mode == "sandwich" and not self.sampled and len(self.points) > 2 and self.dyn.norms != "recalibrated":
            raise PrecutError(
                f"sampled=0 never trains {len(self.points) - 2} of the points, whose norms={self.dyn.norms!r} need it: "
                "pass sampled of at least 1, or make_dynamic(..., norms='recalibrated')"
            )

    def config(self) -> dict[str, Any]:
        return {
            "points": [point.to_dict() for point in self.points],
            "norms": self.dyn.norms,
            "mode": self.mode,
            "sampled": self.sampled,
            "distill": self.distill,
            "weights": self.weights,
            "balance": self.balance,
            "calibration_images": self.calibration_images,
        }

    def networks(self, model: nn.Module) -> Iterator[nn.Module]:
        yield model
        for point in self.points:
            yield self.dyn.structure(point)

    def drawn(self, step: int) -> tuple[int, ...]:
        """Numbers of the points that a step trains, ascending; they depend on the seed and the step alone."""
        count = len(self.points)
        if self.mode == "fixed" or count <= 2 + self.sampled:
            return tuple(range(count))
        inner = random.Random(f"{self.seed} {step}").sample(range(1, count - 1), self.sampled)
        return (0, *sorted(inner), count - 1)

    def backward(
        self, state: TrainState, wrapped: nn.Module, images: Tensor, labels: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        if state.fabric.world_size > 1:
            raise PrecutError("joint training runs in one process; start it without torchrun")
        chosen = self.drawn(state.step)
        total, first, soft = images.new_zeros(()), None, None
        for number in chosen:
            self.dyn.set_point(self.points[number])
            logits = wrapped(images)
            if logits.shape != (len(labels), classes):
                raise PrecutError(f"the network gave {tuple(logits.shape)}; expected ({len(labels)}, {classes})")
            loss = self.loss(logits, labels, soft, state.recipe.label_smoothing)
            state.fabric.backward(self.weights[number] * loss)
            total = total + self.weights[number] * loss.detach()
            if first is None:
                first = logits.detach()
                wide = torch.promote_types(first.dtype, torch.float32)
                soft = first.softmax(1, dtype=wide) if self.distill else None
        if self.balance == "mean":
            self._divide(chosen)
        self.dyn.set_point(self.dyn.full)
        assert first is not None
        return total / sum(self.weights[number] for number in chosen), first

    def loss(self, logits: Tensor, labels: Tensor, soft: Tensor | None, smoothing: float) -> Tensor:
        """One point's loss; ``soft`` are the first point's probabilities, None for itself or without distillation."""
        if soft is None:
            return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        learned = functional.cross_entropy(logits, soft)
        if self.distill == 1:
            return learned
        hard = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        return self.distill * learned + (1 - self.distill) * hard

    def _divide(self, chosen: tuple[int, ...]) -> None:
        if chosen not in self._scales:
            if len(self._scales) > 64:  # a sandwich draws many sets
                self._scales.clear()
            self._scales[chosen] = self._shares_of(chosen)
        for name, parameter in self.dyn.named_parameters():
            if parameter.grad is not None and name in self._scales[chosen]:
                parameter.grad.mul_(self._scales[chosen][name].to(parameter.grad))

    def _shares_of(self, chosen: tuple[int, ...]) -> dict[str, Tensor]:
        """Parameter's name to 1 / (summed weights of the points that hold each of its entries)."""
        named = self.dyn.named_parameters()
        held = {name: torch.zeros_like(p, device="cpu", requires_grad=True) for name, p in named}
        total = torch.zeros(())
        for number in chosen:
            for name, share in self.dyn.holdings(self.points[number]).items():
                part = share.of(held[name]) if isinstance(share, Share) else held[name]
                total = total + self.weights[number] * part.sum()
        total.backward()
        found = {}
        for name, counts in held.items():
            grad = counts.grad
            if grad is not None:
                found[name] = torch.where(grad > 0, 1 / grad.clamp(min=1e-12), grad.new_zeros(()))
        return found

    def totals(self, model: nn.Module, loader: BatchLoader, classes: int, precision: str) -> Tensor:
        """Summed over the points: the mean accuracy decides which epoch is best."""
        # Also points that a sandwich has not drawn yet: until it does, theirs would not be known.
        stale = [p for p in self.points if self.dyn.norms == "recalibrated" or not self.dyn.calibrated(p)]
        if self.dyn.full not in self.points and any(batch_norms(self.dyn.model)):
            stale.append(self.dyn.full)  # never run, and saved and tested all the same
        if stale and self.dataset is not None:
            recalibrate(self.dyn, stale, self.dataset, self.calibration_images)
        found = torch.zeros(3, dtype=torch.float64)
        for point in self.points:
            self.dyn.set_point(point)
            found += super().totals(model, loader, classes, precision)
        self.dyn.set_point(self.dyn.full)
        return found
