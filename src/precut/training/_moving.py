"""Supports that move while the network trains, at a constant number of weights: drop and grow."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from precut.errors import PrecutError, real, unknown, whole
from precut.layers import SparseLayer, SupportMove, ignored_names
from precut.supports import Support
from precut.training._callback import Callback, TrainState
from precut.training._move_units import UNITS, drop_and_grow, growth_rules, units_of

__all__ = ["MovingSupports", "SupportMover"]


class SupportMover:
    """Moves the supports of a model's sparse layers during a training loop of your own.

    After every ``every``-th step, in each layer, the weights (or positions of class pairs) of least magnitude go and
    as many others come: those of largest gradient ("rigl", Evci et al., ICML 2020, arXiv 1911.11134) or random ones
    ("set", Mocanu et al., 2018). The share that goes falls along a cosine, as in RigL: after step t of T it is
    ``fraction / 2 * (1 + cos(pi t / (end T)))``, and nothing moves after ``end T``. New weights start from zero, their
    optimiser state too; weights that stay keep both, and so does one that goes and is wanted again at once. No layer
    ever holds more weights than it began with: exactly as many where units cost the same (single weights always do).

    Unlike RigL's pseudo-code, the optimiser also steps before a move; the gradient is that of this step.

    ::

        mover = SupportMover(model, optimizer, steps=epochs * len(batches))
        for images, labels in batches:
            optimizer.zero_grad()
            mover.start_step()
            loss(model(images), labels).backward()
            optimizer.step()
            mover.end_step()

    Args:
        model: holds the sparse layers; those whose weights do not train, and full ones, stay as they are.
        optimizer: whose state moves along; None if it has none.
        steps: of the whole training.
        rule: "rigl" or "set"; see ``growth_rules``.
        every: steps between two moves.
        fraction: of a layer's weights that the first moves would exchange.
        end: share of the training after which nothing moves any more.
        unit: "weights" (a structured support then becomes unstructured), "class-pairs", or "auto": class pairs where
            the support is structured, weights elsewhere.
        period: let structured supports have at least so many classes (the least common multiple), so that what moves
            is finer than what they began with.
        ignored_layers: modules, names or globs of layers whose supports stay.
        seed: of random growth; a move depends on the seed and the step alone.
        on_move: called with the name of a layer and its SupportMove for every move, under every name that the layer
            has: for averages and the like, ``averages[name + ".weight"] = move.carry(averages[name + ".weight"])``.

    Raises:
        PrecutError: when an argument is out of range or no layer can move.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        steps: int,
        rule: str = "rigl",
        every: int = 100,
        fraction: float = 0.3,
        end: float = 0.75,
        unit: str = "auto",
        period: int | None = None,
        ignored_layers: Iterable[nn.Module | str] | nn.Module | str = (),
        seed: int = 0,
        on_move: Callable[[str, SupportMove], None] | None = None,
    ) -> None:
        fraction, end = _checked(rule, every, fraction, end, unit, period, seed)
        self._rule, self.steps, self.every = growth_rules[rule], whole("steps", steps), every
        self.fraction, self.end, self._seed = fraction, end, seed
        self._unit, self._period = unit, period
        self._optimizer, self._on_move = optimizer, on_move
        self.step = 0
        self._layers, self._names = _movable(model, ignored_names(model, ignored_layers))
        for layer in self._layers.values():
            units_of(layer, unit, self._period)  # what cannot move is told now, not at the first move
        self._budgets = {name: layer.support.nnz for name, layer in self._layers.items()}

    @property
    def layers(self) -> list[str]:
        """Names of the layers that move."""
        return list(self._layers)

    def share(self, step: int) -> float:
        """The share of a layer's weights that may go after ``step`` steps; 0 where nothing moves."""
        last = self.end * self.steps
        if step < 1 or step % self.every or step >= last:
            return 0.0
        return self.fraction / 2 * (1 + math.cos(math.pi * step / last))

    def start_step(self) -> None:
        """To be called before a step's forward pass: has dense gradients kept, if supports move after this step."""
        if self._rule.gradient and self.share(self.step + 1):
            for layer in self._layers.values():
                layer.keep_dense_grad_()

    def end_step(self) -> dict[str, SupportMove]:
        """To be called after the optimiser's step: moves the supports, if this is the time. Returns the layers' moves;
        none at most steps.

        Raises:
            PrecutError: the rule needs gradients, and ``start_step`` was not called; or the optimiser keeps something
                for a weight that is not one number for each.
        """
        self.step += 1
        share = self.share(self.step)
        if not share:
            return {}
        gradients = {name: layer.dense_grad for name, layer in self._layers.items()}
        for layer in self._layers.values():
            layer.keep_dense_grad_(False)
        if self._rule.gradient and all(gradient is None for gradient in gradients.values()):
            raise PrecutError(
                f"supports move after step {self.step}, but no dense gradients were kept; call start_step() before the "
                "forward pass and end_step() after the optimiser's step"
            )
        # torch's generator looks at 32 bits of a seed only, so these mix all of both numbers.
        mixed = np.random.SeedSequence([self._seed, self.step]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        moves = {}
        for name, layer in self._layers.items():
            support = self._next(layer, gradients[name], self._budgets[name], share, generator)
            if support is not None:
                moves[name] = self._move(name, support)
        return moves

    def _next(
        self, layer: SparseLayer, gradient: Tensor | None, budget: int, share: float, generator: torch.Generator
    ) -> Support | None:
        """The layer's next support; None where it stays."""
        if self._rule.gradient and (gradient is None or not bool(torch.isfinite(gradient).all())):
            return None  # the layer took no part in this step, or its scaled gradients overflowed
        units = units_of(layer, self._unit, self._period)
        strength = units.size(layer.dense_weight())

        def wanted() -> Tensor:
            size = None if gradient is None else units.size(gradient)
            return self._rule.wanted(size, len(units.kept), generator)

        kept = drop_and_grow(units.kept, units.cost, budget, share, strength, wanted)
        return None if torch.equal(kept, units.kept) else units.support(kept)

    def _move(self, name: str, support: Support) -> SupportMove:
        layer = self._layers[name]
        state = None if self._optimizer is None else self._optimizer.state.get(layer.weight)
        own = {key: value for key, value in (state or {}).items() if isinstance(value, Tensor) and value.ndim}
        for key, value in own.items():
            if value.shape != layer.weight.shape:
                raise PrecutError(
                    f"supports cannot move under {type(self._optimizer).__name__}: for layer {name!r} it keeps "
                    f"{key!r} of shape {tuple(value.shape)}, not one number for each weight"
                )
        move = layer.move_support_(support)
        if state:
            state.update({key: move.carry(value) for key, value in own.items()})
        if self._on_move is not None:
            for alias in self._names[name]:
                self._on_move(alias, move)
        return move

    def state_dict(self) -> dict[str, Any]:
        """The steps done, each layer's support and its budget: numbers and strings."""
        supports = {name: layer.support.key for name, layer in self._layers.items()}
        return {"step": self.step, "supports": supports, "budgets": dict(self._budgets)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back: the layers get the supports of then. Load the model's and the optimiser's own states
        afterwards.

        Raises:
            PrecutError: when it is of other layers.
        """
        if set(state["supports"]) != set(self._layers):
            raise PrecutError(
                f"the state of moving supports is of the layers {sorted(state['supports'])}; this model moves "
                f"{sorted(self._layers)}"
            )
        self.step, self._budgets = state["step"], dict(state["budgets"])
        for name, key in state["supports"].items():
            if key != self._layers[name].support.key:
                self._move(name, Support.from_key(key))


def _checked(
    rule: str, every: int, fraction: float, end: float, unit: str, period: int | None, seed: int
) -> tuple[float, float]:
    """``fraction`` and ``end``, where all is as it should be."""
    growth_rules[rule]  # tells an unknown one
    whole("every (steps between two moves)", every)
    if unit not in UNITS:
        raise unknown("unit of moving supports", unit, UNITS)
    if period is not None:
        whole("period", period)
    whole("seed", seed, 0, 2**63 - 1)
    return real("fraction", fraction, above=0, most=1), real("end", end, above=0, most=1)


def _movable(model: nn.Module, ignored: set[str]) -> tuple[dict[str, SparseLayer], dict[str, list[str]]]:
    """The layers that can move, by their first name, and all names of each."""
    first: dict[SparseLayer, str] = {}
    names: dict[str, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, SparseLayer) or name in ignored or not module.weight.requires_grad:
            continue
        if 0 < module.support.nnz < module.support.numel:
            names.setdefault(first.setdefault(module, name), []).append(name)
    if not first:
        raise PrecutError(
            "no support can move: the model has no sparse layer with a trained weight and room to grow; "
            "make one by precut.sparsify, from_masks or prune"
        )
    owners: dict[int, str] = {}
    for layer, name in first.items():
        if id(layer.weight) in owners:
            raise PrecutError(
                f"layers {owners[id(layer.weight)]!r} and {name!r} share their weight, and only one of them would move; "
                f"keep both as they are: ignored_layers=[{owners[id(layer.weight)]!r}, {name!r}]"
            )
        owners[id(layer.weight)] = name
    return {name: layer for layer, name in first.items()}, names


class MovingSupports(Callback):
    """Has ``fit`` move the supports of the model's sparse layers; see ``SupportMover`` for the arguments.

    Optimiser state and averaged weights move along, and a resumed run goes on bit for bit. A run in several processes
    is refused: they would have to agree on every move.
    """

    def __init__(
        self,
        rule: str = "rigl",
        every: int = 100,
        fraction: float = 0.3,
        end: float = 0.75,
        unit: str = "auto",
        period: int | None = None,
        ignored_layers: Iterable[str] | str = (),
        seed: int = 0,
    ) -> None:
        fraction, end = _checked(rule, every, fraction, end, unit, period, seed)
        self._options: dict[str, Any] = {
            "rule": rule,
            "every": every,
            "fraction": fraction,
            "end": end,
            "unit": unit,
            "period": period,
            "ignored_layers": [ignored_layers] if isinstance(ignored_layers, str) else list(ignored_layers),
            "seed": seed,
        }
        self._mover: SupportMover | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> MovingSupports:
        """From named options, as the command line and files of claims have them.

        Raises:
            PrecutError: for a name that is no option.
        """
        names = list(inspect.signature(cls).parameters)
        for name in options:
            if name not in names:
                raise unknown("option of moving supports", name, names, "help(precut.training.MovingSupports)")
        return cls(**options)

    @property
    def mover(self) -> SupportMover:
        """The SupportMover of the run."""
        if self._mover is None:
            raise PrecutError("these MovingSupports take part in no training yet; pass them to fit(callbacks=[...])")
        return self._mover

    def config(self) -> dict[str, Any]:
        return dict(self._options)

    def on_fit_start(self, state: TrainState) -> None:
        if state.fabric.world_size > 1:
            raise PrecutError(f"supports move in runs of one process; this one has {state.fabric.world_size}")
        average = state.average

        def carry(name: str, move: SupportMove) -> None:
            key = f"{name}.weight"
            if average is not None and key in average.tensors:  # of several names of a layer, one is there
                average.tensors[key] = move.carry(average.tensors[key])

        self._mover = SupportMover(state.model, state.optimizer, steps=state.steps, on_move=carry, **self._options)

    def on_step_start(self, state: TrainState) -> None:
        self.mover.start_step()

    def on_step_end(self, state: TrainState) -> None:
        self.mover.end_step()

    def state_dict(self) -> dict[str, Any]:
        return self.mover.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mover.load_state_dict(state)
