"""Random networks, scores, allocations and densities: how many weights are kept, which of them lie on paths, whether
flow is conserved, and that removing dead weights changes no output."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from graph.nets import Program, close, randomise_
from precut.pruning import allocations, as_masks, schedules, score_weights, scores

DENSITIES = st.floats(1e-3, 1.0)
SEEDS = st.integers(0, 10_000)


def loss(result: Tensor, targets: Tensor) -> Tensor:
    return (result.flatten(1).sum(1) * targets).pow(2).mean()


def program(seed: int, steps: int = 6, mixing: bool = False) -> tuple[nn.Module, Tensor]:
    """A random network (convolutions of all kinds, shared ones, norms with statistics, gates, branches)."""
    made = Program(seed, steps, mixing)
    x = torch.randn(2, made.channels[0], 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return randomise_(made, seed), x


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    score=st.sampled_from(list(scores)),
    allocation=st.sampled_from(list(allocations)),
    schedule=st.sampled_from(list(schedules)),
    density=DENSITIES,
    rounds=st.integers(1, 4),
)
def test_exactly_k_weights_are_kept(
    seed: int, score: str, allocation: str, schedule: str, density: float, rounds: int
) -> None:
    model, x = program(seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned, report = precut.prune(
        model,
        score,
        density,
        x,
        allocation,
        rounds,
        schedule,
        data=[(x, torch.tensor([1.0, -0.5]))],
        loss=loss,
        seed=seed,
    )
    total = sum(report.dense.values())
    assert report.k == sum(report.kept.values()) == math.ceil(Fraction(str(density)) * total)
    assert all(0 <= report.kept[name] <= report.dense[name] for name in report.dense)
    found = as_masks(report)
    assert {name: int(mask.sum()) for name, mask in found.items()} == report.kept
    # The model as it was, and the pruned one as the masked model.
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, mask in found.items():
            modules[name].weight.mul_(mask)
    assert torch.equal(pruned(x), model(x))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, density=st.sampled_from([0.03, 0.2, 0.6]), score=st.sampled_from(["random", "synflow"]))
def test_removing_dead_weights_changes_no_output(seed: int, density: float, score: str) -> None:
    model, x = program(seed, 7, mixing=True)
    pruned, report = precut.prune(model, score, density, x, seed=seed)
    smaller, told = precut.prune(model, score, density, x, seed=seed, remove_dead=True)
    assert close(smaller(x), pruned(x))
    other = torch.randn(5, *x.shape[1:], dtype=torch.float64)
    assert close(smaller(other), pruned(other))
    assert told.kept == report.kept
    left = sum(p.numel() for p in smaller.parameters())
    assert left <= sum(p.numel() for p in pruned.parameters()) - told.dead_removed


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, density=st.floats(0.05, 1.0), score=st.sampled_from(["random", "synflow", "magnitude"]))
def test_flow_is_conserved(seed: int, density: float, score: str) -> None:
    model, x = program(seed, 8)
    _, report = precut.prune(model, score, density, x, seed=seed)
    flow = report.conservation
    assert flow is not None
    assert flow.neurons is None or flow.neurons < 1e-9
    assert flow.cuts is None or flow.cuts < 1e-9


class Chain(nn.Module):
    """Layers of the ReLU family in a row, with trained norms, biases, pools and any kind of convolution."""

    def __init__(self, widths: list[int], kinds: list[str]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, kind in zip(widths, widths[1:], kinds, strict=False):
            conv = {
                "plain": lambda a=a, b=b: nn.Conv2d(a, b, 3, padding=1),
                "dilated": lambda a=a, b=b: nn.Conv2d(a, b, 3, padding=2, dilation=2),
                "transposed": lambda a=a, b=b: nn.ConvTranspose2d(a, b, 2, stride=2),
                "strided": lambda a=a, b=b: nn.Conv2d(a, b, 3, 2, 1, padding_mode="reflect"),
                "pooled": lambda a=a, b=b: nn.Sequential(nn.MaxPool2d(2, 1), nn.Conv2d(a, b, (1, 3), padding="same")),
            }[kind]()
            layers += [conv, nn.BatchNorm2d(b), nn.LeakyReLU(0.1), nn.Dropout(0.5)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[len(kinds)], 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=6, max_size=6),
    kinds=st.lists(st.sampled_from(["plain", "dilated", "transposed", "strided", "pooled"]), min_size=1, max_size=4),
    seed=SEEDS,
)
def test_every_layer_of_a_chain_carries_the_same_flow(widths: list[int], kinds: list[str], seed: int) -> None:
    """Theorem 2, on the scores themselves, whatever biases and statistics were trained to."""
    model = randomise_(Chain(widths, kinds), seed)
    sums = [float(score.sum()) for score in score_weights(model, "synflow", torch.zeros(1, widths[0], 16, 16)).values()]
    assert min(sums) > 0
    assert max(sums) / min(sums) == pytest.approx(1, rel=1e-9)


# ---- paths by brute force --------------------------------------------------------------------------------------------

Node = tuple[int, int, int, int]  # value number, channel, row, column
SIDE = 3


class Small(nn.Module):
    """Convolutions, a pool, an addition, a concatenation and a linear layer on images of 3 pixels, which can also list
    its edges one by one."""

    def __init__(self, groups: int, pool: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1, groups=groups)
        self.c = nn.Conv2d(4, 2, 1, bias=False)
        self.d = nn.Conv2d(6, 3, 3, stride=2)
        self.e = nn.Linear(3, 2)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.a(x))
        if self.pool:
            first = F.max_pool2d(first, 3, 1, 1)
        summed = F.relu(self.b(first)) + first
        joined = torch.cat([summed, self.c(first)], 1)
        return self.e(F.relu(self.d(joined)).flatten(1))

    def edges(self) -> list[tuple[Node, Node, tuple[str, tuple[int, ...]] | None]]:
        """(from, to, (layer, position of the weight) or None)."""
        found: list[tuple[Node, Node, tuple[str, tuple[int, ...]] | None]] = []

        def conv(name: str, source: int, target: int, size: int, stride: int, padding: int) -> None:
            layer = getattr(self, name)
            out, inner, height, width = layer.weight.shape
            for o, i, y, x in product(range(out), range(inner), range(height), range(width)):
                channel = o // (out // layer.groups) * inner + i
                for row, column in product(range(size), repeat=2):
                    from_y, from_x = row * stride + y - padding, column * stride + x - padding
                    if 0 <= from_y < SIDE and 0 <= from_x < SIDE:
                        found.append(
                            ((source, channel, from_y, from_x), (target, o, row, column), (name, (o, i, y, x)))
                        )

        def pass_on(source: int, target: int, channels: int, offset: int = 0) -> None:
            for c, y, x in product(range(channels), range(SIDE), range(SIDE)):
                found.append(((source, c, y, x), (target, c + offset, y, x), None))

        conv("a", 0, 1, SIDE, 1, 1)
        for c, y, x, dy, dx in product(range(4), range(SIDE), range(SIDE), range(-1, 2), range(-1, 2)):
            near = 0 <= y + dy < SIDE and 0 <= x + dx < SIDE
            if near and (self.pool or (dy, dx) == (0, 0)):
                found.append(((1, c, y + dy, x + dx), (2, c, y, x), None))
        conv("b", 2, 3, SIDE, 1, 1)
        pass_on(2, 3, 4)
        conv("c", 2, 4, SIDE, 1, 0)
        pass_on(3, 5, 4)
        pass_on(4, 5, 2, 4)
        conv("d", 5, 6, 1, 2, 0)
        for o, i in product(range(2), range(3)):
            found.append(((6, i, 0, 0), (7, o, 0, 0), ("e", (o, i))))
        return found


def live_by_brute_force(model: Small, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    edges = [(a, b, w) for a, b, w in model.edges() if w is None or masks[w[0]][w[1]]]

    def reached(start: set[Node], pairs: list[tuple[Node, Node]]) -> set[Node]:
        following = defaultdict(list)
        for a, b in pairs:
            following[a].append(b)
        seen, waiting = set(start), list(start)
        while waiting:
            for node in following[waiting.pop()]:
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
        return seen

    forward = reached(
        {(0, c, y, x) for c in range(2) for y, x in product(range(SIDE), repeat=2)}, [e[:2] for e in edges]
    )
    backward = reached({(7, c, 0, 0) for c in range(2)}, [(b, a) for a, b, _ in edges])
    live = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for a, b, weight in edges:
        if weight is not None and a in forward and b in backward:
            live[weight[0]][weight[1]] = True
    return live


@settings(max_examples=40, deadline=None)
@given(
    density=st.floats(0.02, 0.6),
    seed=SEEDS,
    groups=st.sampled_from([1, 2, 4]),
    pool=st.booleans(),
    allocation=st.sampled_from(["global", "erdos-renyi-kernel"]),
)
def test_live_weights_are_those_that_a_search_finds(
    density: float, seed: int, groups: int, pool: bool, allocation: str
) -> None:
    model = Small(groups, pool)
    _, report = precut.prune(model, "random", density, torch.zeros(1, 2, SIDE, SIDE), allocation, seed=seed)
    found = {name: int(live.sum()) for name, live in live_by_brute_force(model, report.masks()).items()}
    assert report.live == found
