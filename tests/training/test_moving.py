"""Moving supports, against RigL written plainly for masked dense layers, and against moves made by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import precut
from layers.twins import dense_by_mask
from precut.errors import PrecutError
from precut.layers import SparseConv2d, SparseLayer, from_masks
from precut.supports import ClassTable, Dense, Unstructured
from precut.training import MovingSupports, Recipe, SupportMover, fit
from precut.training._move_units import drop_and_grow
from training.toy import RECIPE, same, toy_dataset, weights

STEPS = 20

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.002, momentum=0.5),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(6, 10, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(10, 9, 3, padding=1, bias=False),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 4),
    ).double()


def batches(count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64),
            torch.randint(4, (8,), generator=generator),
        )
        for _ in range(count)
    ]


def random_masks(model: nn.Sequential, density: float = 0.3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return {name: torch.rand(model[int(name)].weight.shape, generator=generator) < density for name in ("2", "4")}


def group_of(shape: torch.Size, classes: int) -> Tensor:
    """A number for each dense weight: which class pair and position it is of. Plain loops."""
    group = torch.empty(shape, dtype=torch.int64)
    for o, i, y, x in itertools.product(*map(range, shape)):
        group[o, i, y, x] = ((o % classes) * classes + i % classes) * shape[2] * shape[3] + y * shape[3] + x
    return group


class PlainRigL:
    """RigL on dense layers with masks, as its paper's pseudo-code has it, but for the optimiser's step before a move:
    weights, gradients and every optimiser tensor are dense and masked."""

    def __init__(self, model: nn.Sequential, masks: dict[str, Tensor], make: Any, every: int, classes: int | None):
        self.model, self.masks, self.every = model, {k: m.clone() for k, m in masks.items()}, every
        self.optimizer = make(model.parameters())
        self.groups = {
            name: torch.arange(mask.numel()).view(mask.shape) if classes is None else group_of(mask.shape, classes)
            for name, mask in masks.items()
        }
        self.budgets = {name: int(mask.sum()) for name, mask in masks.items()}
        self.mask_weights()

    def mask_weights(self) -> None:
        for name, mask in self.masks.items():
            self.model[int(name)].weight.data *= mask
            for value in self.optimizer.state[self.model[int(name)].weight].values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    value *= mask

    def step(self, x: Tensor, y: Tensor, number: int) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        dense = {}
        for name, mask in self.masks.items():
            gradient = self.model[int(name)].weight.grad
            dense[name] = gradient.clone()
            gradient *= mask
        self.optimizer.step()
        self.mask_weights()
        last = 0.75 * STEPS
        if number % self.every or number >= last:
            return
        share = 0.5 / 2 * (1 + math.cos(math.pi * number / last))
        for name, mask in self.masks.items():
            weight = self.model[int(name)].weight.detach()
            self.masks[name] = self.moved(self.groups[name], mask, weight, dense[name], share, self.budgets[name])
        self.mask_weights()

    @staticmethod
    def moved(group: Tensor, mask: Tensor, weight: Tensor, gradient: Tensor, share: float, budget: int) -> Tensor:
        flat, kept_weights = group.flatten(), mask.flatten()
        count = torch.bincount(flat).tolist()
        size = (torch.bincount(flat, weight.square().flatten()) / torch.tensor(count)).sqrt().tolist()
        want = (torch.bincount(flat, gradient.square().flatten()) / torch.tensor(count)).sqrt().tolist()
        kept = set(flat[kept_weights].tolist())
        room = int(share * int(mask.sum()))
        for g in sorted(kept, key=lambda g: size[g]):
            if count[g] > room:
                break
            room -= count[g]
            kept.remove(g)
        room = budget - sum(count[g] for g in kept)
        for g in sorted(set(range(len(count))) - kept, key=lambda g: -want[g]):
            if count[g] <= room:
                kept.add(g)
                room -= count[g]
        chosen = torch.zeros(len(count), dtype=torch.bool)
        chosen[list(kept)] = True
        return chosen[group]


@pytest.mark.parametrize("classes", [None, 3], ids=["weights", "class-pairs"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_it_is_rigl_on_masked_dense_layers(name: str, classes: int | None) -> None:
    plain = network()
    if classes is None:
        masks = random_masks(plain)
        sparse = from_masks(network(), masks)
    else:
        generator = torch.Generator().manual_seed(3)
        table = ClassTable.of_bits(torch.rand(classes, classes, 9, generator=generator) < 0.4)
        masks = {key: table.mask(plain[int(key)].weight.shape) for key in ("2", "4")}
        sparse = from_masks(network(), masks)
        for key in masks:
            sparse.get_submodule(key).move_support_(table)  # type: ignore[operator]
    reference = PlainRigL(plain, masks, OPTIMISERS[name], every=3, classes=classes)
    optimizer = OPTIMISERS[name](sparse.parameters())
    mover = SupportMover(sparse, optimizer, steps=STEPS, every=3, fraction=0.5)
    moved = 0
    for number, (x, y) in enumerate(batches(), 1):
        reference.step(x, y, number)
        optimizer.zero_grad()
        mover.start_step()
        nn.functional.cross_entropy(sparse(x), y).backward()
        optimizer.step()
        moves = mover.end_step()
        moved += sum(move.grown for move in moves.values())
        for key, mask in reference.masks.items():
            layer: Any = sparse.get_submodule(key)
            assert torch.equal(layer.support.mask(), mask), number
            torch.testing.assert_close(layer.dense_weight(), plain[int(key)].weight, rtol=1e-9, atol=1e-12)
            assert isinstance(layer, SparseConv2d)
            assert (layer.support.table is None) == (classes is None)
            assert layer.dense_grad is None
            for entry, value in reference.optimizer.state[plain[int(key)].weight].items():
                own = optimizer.state[layer.weight][entry]
                expected = value[mask] if value.ndim else value
                torch.testing.assert_close(own.flatten(), expected.reshape(-1), rtol=1e-9, atol=1e-12)
    assert moved > 50


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_drop_and_grow_by_hand(data: st.DataObject) -> None:
    """Against the definition, unit by unit; equal numbers come often."""
    count = data.draw(st.integers(1, 12))
    costs = data.draw(st.sampled_from([[0, 1, 2, 3], [1], [0, 2]]))
    cost = data.draw(st.lists(st.sampled_from(costs), min_size=count, max_size=count))
    kept = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    strength = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    want = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    share = data.draw(st.floats(0, 1))
    now = sum(c for c, k in zip(cost, kept, strict=True) if k)
    budget = now + data.draw(st.integers(0, 4))

    room = math.floor(share * now)
    after = list(kept)
    for unit in sorted((u for u in range(count) if kept[u] and cost[u]), key=lambda u: (strength[u], u)):
        if cost[unit] > room:
            break
        room -= cost[unit]
        after[unit] = False
    room = budget - sum(c for c, k in zip(cost, after, strict=True) if k)
    for unit in sorted((u for u in range(count) if not after[u] and cost[u]), key=lambda u: (-want[u], u)):
        if cost[unit] <= room:
            room -= cost[unit]
            after[unit] = True

    numbers = torch.tensor(strength, dtype=torch.float64)
    wanted = torch.tensor(want, dtype=torch.float64)
    found = drop_and_grow(torch.tensor(kept), torch.tensor(cost), budget, share, numbers, lambda: wanted)
    assert found.tolist() == after


class Watch(precut.training.Callback):
    """Notes what there is after every step."""

    def __init__(self) -> None:
        self.weights: list[int] = []
        self.tables: list[Any] = []

    def on_step_end(self, state: Any) -> None:
        layers = [module for module in state.model.modules() if isinstance(module, SparseLayer)]
        self.weights.append(sum(layer.support.nnz for layer in layers))
        self.tables.append([layer.support for layer in layers])
        for layer in layers:
            buffer = state.optimizer.state[layer.weight].get("momentum_buffer")
            assert buffer is None or buffer.shape == layer.weight.shape == layer.support.weight_shape
        if state.average is not None:
            shapes = {name: tensor.shape for name, tensor in state.average.tensors.items()}
            live = state.model.state_dict()
            assert all(live[name].shape == shape for name, shape in shapes.items())


def toy_sparse(support: Any = "PS4_P4", seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 8, 3, padding=1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
    return precut.sparsify(model, support)  # type: ignore[return-value]


@pytest.mark.parametrize("rule", ["rigl", "set"])
@pytest.mark.parametrize("support", ["PS4_P4", "pSC4"])
def test_fit_keeps_the_budget_at_every_step(rule: str, support: str, tmp_path: Path) -> None:
    model = toy_sparse(support)
    before = [model[2].support, model[5].support]
    watch = Watch()
    moving = MovingSupports(rule, every=2, fraction=0.5, end=1.0)
    fit(model, toy_dataset(), RECIPE, run_dir=tmp_path, progress=False, callbacks=[moving, watch])
    assert set(watch.weights) == {sum(support.nnz for support in before)}
    assert len({tuple(map(hash, supports)) for supports in watch.tables}) >= 5
    assert all(
        isinstance(support.maker, ClassTable if model[2].support.table else Unstructured)
        for support in watch.tables[-1]
    )
    loaded = precut.load(tmp_path / "model.safetensors", toy_sparse("dense"))
    loaded.to(memory_format=torch.channels_last)  # as the run trained: dense convolutions round by their layout
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x), model.eval()(x))
    assert loaded.get_submodule("2").support != before[0]


def test_averages_are_those_of_a_masked_dense_network() -> None:
    """The average of a grown weight starts from zero, that of a kept one goes on."""
    model = toy_sparse("PS4_P4")
    tracked: dict[str, Tensor] = {}

    class Track(precut.training.Callback):
        """A dense average beside the run's own, before each update of it."""

        def on_fit_start(self, state: Any) -> None:
            tracked["average"] = dense_by_mask(state.model[2])
            self.mask = state.model[2].support.mask()

        def on_step_end(self, state: Any) -> None:
            layer, name = state.model[2], "2.weight"
            mask = layer.support.mask()
            expected = tracked["average"] * (mask & self.mask)
            held = torch.zeros(layer.dense_shape)
            held[mask] = state.average.tensors[name].flatten()
            torch.testing.assert_close(held, expected)
            expected.lerp_(dense_by_mask(layer), 1 - state.average.decay(state.step - 1))
            tracked["average"], self.mask = expected, mask

    moving = MovingSupports(every=2, fraction=0.5)
    fit(model, toy_dataset(), RECIPE.replace(val_count=0), progress=False, callbacks=[moving, Track()])
    assert "average" in tracked


def test_finer_classes_begin_with_the_same_mask() -> None:
    model = toy_sparse("center_P4")
    mask = model[2].support.mask()
    mover = SupportMover(model, steps=10, every=1, period=8)
    assert torch.equal(model[2].support.mask(), mask)
    mover.start_step()
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    mover.end_step()
    table = model[2].support.table
    assert (table.out_classes, table.in_classes) == (8, 8)
    assert model[2].support.nnz <= int(mask.sum())


def test_random_growth_depends_on_seed_and_step_alone() -> None:
    def after(seed: int) -> list[str]:
        model = toy_sparse()
        mover = SupportMover(model, steps=10, every=2, rule="set", seed=seed)
        torch.manual_seed(len(str(seed)))
        for _ in range(4):
            mover.end_step()
        return [model[2].support.key, model[5].support.key]

    assert after(1) == after(1)
    assert after(1) != after(2)


def test_dense_gradients_are_kept_at_moving_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_sparse()
    steps: list[int] = []
    mover = SupportMover(model, steps=12, every=5, end=1.0)
    monkeypatch.setattr(SparseLayer, "_add_dense_grad", lambda self, grad: steps.append(mover.step + 1))
    for _ in range(9):
        mover.start_step()
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        if mover.share(mover.step + 1):
            for name in mover.layers:
                model.get_submodule(name).dense_grad = torch.ones(model.get_submodule(name).dense_shape)
        mover.end_step()
    assert steps == [5, 5]


def test_a_layer_used_under_two_names_moves_once() -> None:
    shared = SparseConv2d(4, 4, 3, padding=1, support="PS4_P4")
    model = nn.Sequential(shared, nn.ReLU(), shared)
    told: list[str] = []
    mover = SupportMover(model, steps=10, every=1, on_move=lambda name, move: told.append(name))
    mover.start_step()
    model(torch.randn(1, 4, 5, 5)).square().sum().backward()
    assert list(mover.end_step()) == ["0"]
    assert told == ["0", "2"]


def test_state_comes_back() -> None:
    model = toy_sparse()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mover = SupportMover(model, optimizer, steps=10, every=1, rule="set")
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    mover.end_step()
    kept, values = mover.state_dict(), weights(model)
    other = toy_sparse(seed=3)
    again = SupportMover(other, steps=10, every=1, rule="set")
    again.load_state_dict(kept)
    other.load_state_dict(values)
    assert again.step == 1
    assert same(weights(other), values)
    mover.end_step()
    again.end_step()
    assert again.state_dict() == mover.state_dict()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rule": "rigle"}, "unknown growth rule 'rigle': did you mean 'rigl'?"),
    ({"every": 0}, "every (steps between two moves) must be a whole number of at least 1; got 0"),
    ({"fraction": 0}, "fraction must be a number above 0 and at most 1; got 0"),
    ({"end": 1.5}, "end must be a number above 0 and at most 1; got 1.5"),
    ({"period": -1}, "period must be a whole number of at least 1; got -1"),
    ({"unit": "weight"}, "unknown unit of moving supports 'weight': did you mean 'weights'?"),
    ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807; got -1"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    for make in (MovingSupports.of, lambda given: SupportMover(toy_sparse(), steps=9, **given)):
        with pytest.raises(PrecutError) as caught:
            make(options)
        assert str(caught.value) == message
    with pytest.raises(PrecutError, match="unknown option of moving supports 'evry': did you mean 'every'"):
        MovingSupports.of({"evry": 3})


def test_nothing_can_move() -> None:
    with pytest.raises(PrecutError) as caught:
        SupportMover(nn.Sequential(nn.Conv2d(3, 3, 3), SparseConv2d(3, 3, 3, support=Dense())), steps=3)
    assert str(caught.value) == (
        "no support can move: the model has no sparse layer with a trained weight and room to grow; make one by "
        "precut.sparsify, from_masks or prune"
    )
    with pytest.raises(PrecutError) as caught:
        SupportMover(toy_sparse("pSC4"), steps=3, unit="class-pairs")
    assert str(caught.value) == ("the support pSC4 has no class pairs; unit='weights' (or 'auto') moves its weights")
    assert SupportMover(toy_sparse(), steps=3, ignored_layers=["2"]).layers == ["5"]


def test_a_forgotten_start() -> None:
    mover = SupportMover(toy_sparse(), steps=10, every=2)
    mover.end_step()
    with pytest.raises(PrecutError) as caught:
        mover.end_step()
    assert str(caught.value) == (
        "supports move after step 2, but no dense gradients were kept; call start_step() before the forward pass and "
        "end_step() after the optimiser's step"
    )


def test_an_optimiser_with_factored_state() -> None:
    model = toy_sparse()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
    mover = SupportMover(model, optimizer, steps=10, every=1)
    mover.start_step()
    model(torch.randn(1, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    with pytest.raises(PrecutError) as caught:
        mover.end_step()
    assert str(caught.value) == (
        "supports cannot move under Adafactor: for layer '2' it keeps 'row_var' of shape (12, 1), not one number for "
        "each weight"
    )


def test_state_of_another_model() -> None:
    kept = SupportMover(toy_sparse(), steps=3).state_dict()
    other = SupportMover(toy_sparse(), steps=3, ignored_layers=["5"])
    with pytest.raises(PrecutError) as caught:
        other.load_state_dict(kept)
    assert str(caught.value) == "the state of moving supports is of the layers ['2', '5']; this model moves ['2']"
    with pytest.raises(PrecutError) as caught:
        _ = MovingSupports().mover
    assert str(caught.value) == ("these MovingSupports take part in no training yet; pass them to fit(callbacks=[...])")


def test_averages_that_are_put_back_and_other_optimisers_train(tmp_path: Path) -> None:
    recipes: list[Recipe] = [
        RECIPE.replace(optimizer="muon", lr=0.02, average="lookahead"),
        RECIPE.replace(optimizer="adamw", lr=0.01, nesterov=False, average="none"),
    ]
    for recipe in recipes:
        result = fit(
            toy_sparse("PSD4_P8"),
            toy_dataset(),
            recipe,
            progress=False,
            callbacks=[MovingSupports(every=2), Watch()],
        )
        assert math.isfinite(result.test_loss)
