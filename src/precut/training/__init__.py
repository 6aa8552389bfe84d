"""Training: recipes as data, a loop that survives crashes, evaluation."""

from precut._environment import environment
from precut.training._callback import Callback, TrainState
from precut.training._devices import resolve_precision
from precut.training._evaluate import check_logits, evaluate
from precut.training._fit import FitResult, fit
from precut.training._init import init_kundu_, initialise_, whiten_stem_
from precut.training._memory import kept_memory
from precut.training._move_units import GrowthRule, growth_rules
from precut.training._moving import MovingSupports, SupportMover
from precut.training._objective import Objective
from precut.training._optim import param_groups
from precut.training._recipe import Recipe, list_recipes, load_recipe
from precut.training._signals import TrainingInterrupted

__all__ = [
    "Callback",
    "FitResult",
    "GrowthRule",
    "MovingSupports",
    "Objective",
    "Recipe",
    "SupportMover",
    "TrainState",
    "TrainingInterrupted",
    "check_logits",
    "environment",
    "evaluate",
    "fit",
    "growth_rules",
    "init_kundu_",
    "initialise_",
    "kept_memory",
    "list_recipes",
    "load_recipe",
    "param_groups",
    "resolve_precision",
    "whiten_stem_",
]
