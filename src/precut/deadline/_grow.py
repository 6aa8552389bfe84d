"""Samplers of a search: the one that grows a family, and Optuna's."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from precut.deadline._space import Space
from precut.errors import unknown
from precut.report import pareto_front

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["SAMPLERS", "make_sampler", "next_places"]

SAMPLERS = ("grow", "tpe", "nsga2", "random")


def next_places(
    space: Space,
    done: list[tuple[dict[str, int], float, float]],
    tried: list[dict[str, int]],
    min_accuracy: float,
    draw: random.Random,
) -> dict[str, int]:
    """The candidate that growing takes next.

    It starts from the cheapest, and steps along one dimension from the most accurate until one meets ``min_accuracy``
    (Chai and Kang, Technologies 9(1):20, 2021, start from a network that just does). From then on it steps from the
    candidates that no other beats, mostly to dearer ones; where all their neighbours were tried, anywhere.

    Args:
        space: of the search.
        done: (places, seconds, accuracy) of finished candidates.
        tried: places of all that were ever begun.
        min_accuracy: that a candidate must have to be grown from.
        draw: of the choice among equals.
    """
    if not tried:
        return space.smallest()
    able = [one for one in done if one[2] >= min_accuracy]
    if able:
        parents = [able[index][0] for index in pareto_front([(seconds, accuracy) for _, seconds, accuracy in able])]
    else:
        parents = [max(done, key=lambda one: one[2])[0]] if done else [tried[-1]]
    steps = [
        places
        for parent in parents
        for places in space.neighbours(parent)
        if places not in tried and (able or sum(places.values()) > sum(parent.values()))
    ]
    if steps:
        weights = [
            3 if any(sum(places.values()) > sum(parent.values()) for parent in parents) else 1 for places in steps
        ]
        return draw.choices(steps, weights)[0]
    left = [places for places in space.all() if places not in tried]
    return draw.choice(left or list(space.all()))


def make_sampler(name: str, space: Space, min_accuracy: float, seed: int, worker: int = 0) -> BaseSampler:
    """The sampler of that name, over the space's labels.

    Args:
        name: "grow", "tpe", "nsga2" or "random".
        space, min_accuracy: for "grow".
        seed: of its draws.
        worker: its number: others draw otherwise, and do not begin with the same candidate.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    import optuna

    seed += worker

    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=12)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)

    class Grow(optuna.samplers.BaseSampler):
        """:func:`next_places` on what the study holds."""

        def __init__(self) -> None:
            self._draw = random.Random(seed)

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {name: optuna.distributions.CategoricalDistribution(space.labels(name)) for name in space.choices}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
            tried = [places for other in others if (places := space.places(other.params)) is not None]
            done = [
                (places, other.values[0], other.values[1])
                for other in others
                if other.state == optuna.trial.TrialState.COMPLETE
                and (places := space.places(other.params)) is not None
            ]
            if not tried and worker:
                tried = [space.smallest()]
            chosen = next_places(space, done, tried, min_accuracy, self._draw)
            return {name: space.labels(name)[place] for name, place in chosen.items()}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self._draw.choice(param_distribution.choices)

    return Grow()
