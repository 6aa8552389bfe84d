"""A recipe: everything that a training run decides, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.errors import PrecutError, unknown

if TYPE_CHECKING:
    from precut.data import Dataset, LazySplit, Split

__all__ = ["Recipe", "list_recipes", "load_recipe"]

OPTIMIZERS = ("sgd", "adamw", "muon")
SCHEDULES = ("one-cycle", "cosine", "multistep", "constant")
AVERAGES = ("none", "ema", "lookahead")
INITS = ("model", "kundu")
PRECISIONS = ("32-true", "bf16-mixed", "auto")
PAD_MODES = ("reflect", "zeros")


@dataclass(frozen=True)
class Recipe:
    """How to train: optimiser, schedule, augmentation, averaging, validation.

    Attributes:
        name: what reports call it.
        epochs: passes over the training part.
        batch_size: images a step, over all processes together.
        optimizer: "sgd", "adamw" or "muon" (orthogonalised momentum for weights of two or more dimensions, SGD for the
            rest; K. Jordan et al., "Muon", 2024).
        lr: the highest learning rate, for a loss that is the mean over the batch.
        momentum: of SGD and Muon; AdamW's first beta.
        nesterov: Nesterov's momentum (SGD and Muon).
        weight_decay: coupled for SGD, decoupled for AdamW and Muon; only on tensors of two or more dimensions unless
            ``decay_all``.
        decay_all: decay norms and biases too.
        bias_lr_scale: multiplies the rate of the biases of normalisation layers (64 in airbench94).
        vector_lr: with "muon", the highest rate of the parameters that Muon does not take; ``lr`` if None.
        schedule: "one-cycle" (linear up, linear down), "cosine" (linear up, half a cosine down), "multistep" or
            "constant" (both after a linear warm-up).
        warmup: share of all steps spent rising to ``lr``.
        initial_lr, final_lr: where the rise starts and the fall ends, as shares of ``lr``.
        milestones: with "multistep", the epochs, counted from 0, at whose start the rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        label_smoothing: of the training loss.
        grad_clip: largest norm of the gradient; 0 for no limit.
        average: "ema" evaluates and saves an exponential moving average of weights and batch-norm statistics;
            "lookahead" also puts the average back into the weights, with a decay that grows with the cube of the
            progress (as airbench94 does, arXiv 2404.00498); or "none".
        average_decay: a step's decay of that average.
        average_every: steps between two updates of it.
        crop_padding, flip, cutout, pad_mode: see :class:`precut.data.Augment`.
        area: (smallest, largest) share of the picture for random resized crops, or None; for images decoded on the fly.
        whiten: set a speednet's stem from the training images (:func:`precut.models.init_whitening_`); other models are
            left alone.
        init: "model" keeps the weights that came; "kundu" draws them as the authors of the pre-defined sparse kernels
            did (see :func:`precut.training.init_kundu_`).
        precision: "32-true", "bf16-mixed", or "auto": bf16-mixed where the machine multiplies bfloat16 natively.
        channels_last: lay images and 4-D weights out channels last; not on a CPU where a 1 x 1 convolution with a stride
            reads fewer than 8 channels, which torch cannot train so.
        val_count: images taken from the training split to choose the best epoch by; 0 keeps the last epoch.
        val_seed: draws the validation images; apart from the run's seed, so that all runs validate on the same images.
        drop_last: leave out the last batch of an epoch if it is not full.
        test_flip: also report the test accuracy of the mean over each image and its mirror image.
    """

    name: str = "custom"
    epochs: int = 10
    batch_size: int = 250
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_all: bool = False
    bias_lr_scale: float = 1.0
    vector_lr: float | None = None
    schedule: str = "one-cycle"
    warmup: float = 0.0
    initial_lr: float = 0.0
    final_lr: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    label_smoothing: float = 0.0
    grad_clip: float = 0.0
    average: str = "none"
    average_decay: float = 0.99
    average_every: int = 1
    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    pad_mode: str = "reflect"
    area: tuple[float, float] | None = None
    whiten: bool = False
    init: str = "model"
    precision: str = "32-true"
    channels_last: bool = True
    val_count: int = 5000
    val_seed: int = 0
    drop_last: bool = False
    test_flip: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _tidy(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.optimizer != "muon" and self.vector_lr is not None:
            raise PrecutError(f"recipe vector_lr={self.vector_lr!r} needs optimizer='muon', got {self.optimizer!r}")
        if self.nesterov and (self.optimizer == "adamw" or self.momentum == 0):
            raise PrecutError("recipe nesterov=True needs optimizer='sgd' or 'muon' and a momentum above 0")
        if self.milestones and self.schedule != "multistep":
            raise PrecutError(f"recipe milestones need schedule='multistep', got {self.schedule!r}")

    def replace(self, **changes: Any) -> Recipe:
        """A copy with other values.

        Raises:
            PrecutError: a field does not exist or a value is out of range.
        """
        _check_names(changes)
        return dataclasses.replace(self, **changes)

    def split(self, dataset: Dataset) -> tuple[Split | LazySplit, Split | LazySplit | None]:
        """What of the dataset's training images to train on, and what to choose the epoch by (None for no choice)."""
        if not self.val_count:
            return dataset.train, None
        return dataset.split_validation(count=self.val_count, seed=self.val_seed)

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON-able values; ``Recipe(**d)`` gives the recipe back."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in dataclasses.fields(self)
        }


def list_recipes() -> list[str]:
    """The names of the recipes that come with precut, sorted."""
    folder = resources.files("precut.training") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_path: str | Path | Recipe, **changes: Any) -> Recipe:
    """A recipe by its name (see :func:`list_recipes`) or from a YAML file of the user's, with ``changes`` on top.

    A file holds fields of :class:`Recipe`, one a line; ``base: NAME`` starts from another recipe (a file beside this one,
    or elsewhere).

    Raises:
        PrecutError: no such recipe or field, or a value out of range.
    """
    if isinstance(name_or_path, Recipe):
        return name_or_path.replace(**changes)
    return _load(name_or_path, (), changes)


def _load(name_or_path: Any, before: tuple[Path, ...], changes: Mapping[str, Any]) -> Recipe:
    """The recipe; ``before`` are the files that it is the base of."""
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise PrecutError(f"recipe file {text!r} does not exist; bundled recipes: {', '.join(list_recipes())}")
        if path.resolve() in before:
            raise PrecutError(f"recipe file {text!r} is its own base")
        before = (*before, path.resolve())
        fields = _parse(path.read_text(), text)
        fields.setdefault("name", path.stem)
    else:
        if text not in list_recipes():
            raise unknown("recipe", text, list_recipes(), "precut.training.list_recipes()")
        fields = _parse((resources.files("precut.training") / "recipes" / f"{text}.yaml").read_text(), text)
        fields["name"] = text
    base = fields.pop("base", None)
    if before and isinstance(base, str) and (before[-1].parent / base).is_file():
        base = before[-1].parent / base
    start = _load(base, before, {}) if base is not None else Recipe()
    return start.replace(**{**fields, **changes})


def _parse(text: str, source: str) -> dict[str, Any]:
    import yaml

    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PrecutError(f"recipe {source!r} is not valid YAML: {error}") from None
    if not isinstance(fields, dict):
        raise PrecutError(f"recipe {source!r} holds a {type(fields).__name__}; expected one 'field: value' a line")
    _check_names({name: value for name, value in fields.items() if name != "base"})
    return fields


def _check_names(fields: Mapping[Any, Any]) -> None:
    names = [field.name for field in dataclasses.fields(Recipe)]
    for name in fields:
        if name not in names:
            raise unknown("recipe field", name, names, "help(precut.training.Recipe)")


def _real(low: float, high: float, open_low: bool = False, open_high: bool = False) -> Callable[[Any], Any]:
    words = ("above " if open_low else "at least ") + f"{low:g}"
    if not math.isinf(high):
        words += (" and below " if open_high else " and at most ") + f"{high:g}"

    def check(value: Any) -> float:
        if isinstance(value, str):  # YAML 1.1 reads 5e-4, without a point, as a word
            try:
                value = float(value)
            except ValueError:
                raise ValueError(f"a number {words}") from None
        inside = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not inside or not (low < value if open_low else low <= value):
            raise ValueError(f"a number {words}")
        if not (value < high if open_high else value <= high):
            raise ValueError(f"a number {words}")
        return float(value)

    return check


def _whole(low: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f"a whole number of at least {low}")
        return value

    return check


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise unknown("", value, choices)
        return value

    return check


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a name")
    return value


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _epochs(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, int) and v >= 0 for v in value):
        raise ValueError("a list of epochs")
    if list(value) != sorted(set(value)):
        raise ValueError("epochs that rise")
    return tuple(value)


def _shares(value: Any) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not 0 < value[0] <= value[1] <= 1:
        raise ValueError("(smallest, largest) with 0 < smallest <= largest <= 1")
    return (float(value[0]), float(value[1]))


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "epochs": _whole(1),
    "batch_size": _whole(1),
    "optimizer": _one_of(OPTIMIZERS),
    "lr": _real(0, math.inf, open_low=True),
    "momentum": _real(0, 1, open_high=True),
    "nesterov": _switch,
    "weight_decay": _real(0, math.inf),
    "decay_all": _switch,
    "bias_lr_scale": _real(0, math.inf, open_low=True),
    "vector_lr": _optional(_real(0, math.inf, open_low=True)),
    "schedule": _one_of(SCHEDULES),
    "warmup": _real(0, 1, open_high=True),
    "initial_lr": _real(0, 1),
    "final_lr": _real(0, 1),
    "milestones": _epochs,
    "gamma": _real(0, 1, open_low=True),
    "label_smoothing": _real(0, 1, open_high=True),
    "grad_clip": _real(0, math.inf),
    "average": _one_of(AVERAGES),
    "average_decay": _real(0, 1, open_low=True, open_high=True),
    "average_every": _whole(1),
    "crop_padding": _whole(0),
    "flip": _switch,
    "cutout": _whole(0),
    "pad_mode": _one_of(PAD_MODES),
    "area": _optional(_shares),
    "whiten": _switch,
    "init": _one_of(INITS),
    "precision": _one_of(PRECISIONS),
    "channels_last": _switch,
    "val_count": _whole(0),
    "val_seed": _whole(0),
    "drop_last": _switch,
    "test_flip": _switch,
}


def _tidy(name: str, value: Any) -> Any:
    """The value in its type, or an error that names the field."""
    try:
        return _CHECKS[name](value)
    except ValueError as error:
        raise PrecutError(f"recipe {name}={value!r}: expected {error}") from None
    except PrecutError as error:
        raise PrecutError(str(error).replace("unknown  ", f"unknown recipe {name} ", 1)) from None
