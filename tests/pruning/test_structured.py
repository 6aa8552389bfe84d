"""Structures chosen by scores, against enumeration of every choice."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.errors import PrecutError
from precut.pruning._structured import (
    Blocks,
    ClassPairs,
    Kernels,
    SingleWeights,
    Structure,
    StructuredNM,
    StructuredPeriodic,
    choose,
    structure_of,
    structures,
)
from precut.supports import NM, ClassTable, Periodic, Unstructured, parse

EXAMPLES: dict[str, list[Structure]] = {
    "class": [ClassPairs(2), ClassPairs(3, 2), ClassPairs(2, align=2), ClassPairs(64)],
    "kernel": [Kernels()],
    "weight": [SingleWeights()],
    "block": [Blocks(4), Blocks(3), Blocks()],
    "periodic": [
        StructuredPeriodic(Periodic(1, 4)),
        StructuredPeriodic(Periodic(1, 3, full_kernel=True)),
        StructuredPeriodic(Periodic(1, 3, full_kernel=True, align=2)),
    ],
    "nm": [StructuredNM(NM(1, 2)), StructuredNM(NM(2, 4))],
}
SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((8, 4, 3, 3), 1),
    ((6, 8, 3, 2), 1),
    ((9, 4, 1, 1), 1),
    ((12, 4, 3, 3), 3),
    ((8, 4, 3, 3), 2),
    ((7, 4), 1),
]
ALL = [
    pytest.param(structure, shape, groups, id=f"{structure}-{'x'.join(map(str, shape))}g{groups}")
    for name in structures
    for structure in EXAMPLES[name]
    for shape, groups in SHAPES
]
FREE = [case for case in ALL if not case.values[0].fixed]
FIXED = [case for case in ALL if case.values[0].fixed]


def scores_of(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same_decision(structure: Structure, groups: int, shape: tuple[int, ...], one: Any, other: Any) -> bool:
    """Whether two weights (o, i, y, x) can only be kept or dropped together, from the structure's own words."""
    if isinstance(structure, SingleWeights):
        return bool(one == other)
    if isinstance(structure, Kernels):
        return one[:2] == other[:2]
    if isinstance(structure, Blocks):
        each = shape[0] // groups
        block = [(w[0] // each, w[0] % each // structure.size) for w in (one, other)]
        return block[0] == block[1] and one[1:] == other[1:]
    assert isinstance(structure, ClassPairs)
    inner = structure.in_period or structure.period
    pair = [(w[0] // structure.align % structure.period, w[1] % inner, *w[2:]) for w in (one, other)]
    return pair[0] == pair[1]


@pytest.mark.parametrize(("structure", "shape", "groups"), FREE)
def test_decisions_are_those_that_the_words_say(structure: Structure, shape: tuple[int, ...], groups: int) -> None:
    decisions = structure.decisions(shape, groups)
    draw = torch.Generator().manual_seed(1)
    for _ in range(200):
        one, other = (tuple(int(torch.randint(size, (), generator=draw)) for size in shape) for _ in range(2))
        together = bool(decisions.group[one] == decisions.group[other])
        assert together == same_decision(structure, groups, shape, one, other), (one, other)
    costs = decisions.costs()
    assert int(costs.sum()) == math.prod(shape)
    assert int(costs.min()) > 0
    for _ in range(3):
        kept = torch.rand(decisions.count, generator=draw) < 0.5
        support = decisions.support(kept)
        assert torch.equal(support.mask(), kept[decisions.group])
        assert isinstance(support.maker, (ClassTable, Unstructured))


@pytest.mark.parametrize(("structure", "shape", "groups"), FREE)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_the_budget_is_used_up(structure: Structure, shape: tuple[int, ...], groups: int, density: float) -> None:
    scores = {"a": scores_of(shape), "b": scores_of(shape, 1)}
    budget = math.ceil(density * 2 * math.prod(shape))
    found = choose(structure, scores, {"a": groups, "b": groups}, budget)
    kept = sum(support.nnz for support in found.values())
    assert kept <= budget
    costs = structure.decisions(shape, groups).costs()
    dropped = []
    for support in found.values():
        decisions = structure.decisions(shape, groups)
        gone = ~(decisions.sums(support.mask()) > 0)
        dropped += costs[gone].tolist()
    assert all(cost > budget - kept for cost in dropped)


def test_equal_costs_give_the_best_of_all_choices() -> None:
    """Two layers of class pairs, every subset of decisions tried."""
    structure = ClassPairs(2)
    shapes = {"a": (2, 4, 1, 2), "b": (4, 2, 1, 1)}  # 8 decisions of 2 weights, 4 of 2
    for seed in range(20):
        scores = {name: scores_of(shape, seed + 100 * len(name)).abs() for name, shape in shapes.items()}
        made = {name: structure.decisions(shape, 1) for name, shape in shapes.items()}
        values = torch.cat([made[name].sums(scores[name]) for name in shapes])
        assert torch.cat([made[name].costs() for name in shapes]).tolist() == [2] * 12
        for budget in (0, 5, 8, 24):
            best = max(
                float(values[list(subset)].sum()) for subset in itertools.combinations(range(12), min(12, budget // 2))
            )
            found = choose(structure, scores, {"a": 1, "b": 1}, budget)
            total = sum(float(scores[name][support.mask()].sum()) for name, support in found.items())
            assert total == pytest.approx(best, rel=1e-12)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_unequal_costs_come_within_one_decision(data: st.DataObject) -> None:
    """Against a full search: short of the best by less than the first decision that was passed over."""
    prices = {"a": data.draw(st.sampled_from([1.0, 2.0, 3.5])), "b": data.draw(st.sampled_from([1.0, 2.0]))}
    shapes = {"a": (3, 2, 1, 1), "b": (2, 3)}
    structure = ClassPairs(2)
    scores = {name: scores_of(shape, data.draw(st.integers(0, 999))).abs() for name, shape in shapes.items()}
    budget = data.draw(st.integers(0, 30))
    made = {name: structure.decisions(shape, 1) for name, shape in shapes.items()}
    values = torch.cat([made[name].sums(scores[name]) for name in shapes]).tolist()
    costs = torch.cat([made[name].costs() * prices[name] for name in shapes]).tolist()
    found = choose(structure, scores, {"a": 1, "b": 1}, budget, prices=prices)
    kept = [bool(k) for name in shapes for k in made[name].sums(found[name].mask()) > 0]
    spent = sum(c for c, k in zip(costs, kept, strict=True) if k)
    total = sum(v for v, k in zip(values, kept, strict=True) if k)
    best = max(
        sum(v for v, k in zip(values, subset, strict=True) if k)
        for subset in itertools.product([False, True], repeat=len(values))
        if sum(c for c, k in zip(costs, subset, strict=True) if k) <= budget
    )
    assert spent <= budget
    passed = [(v / c, v) for v, c, k in zip(values, costs, kept, strict=True) if not k]
    assert best <= total + max(passed, default=(0.0, 0.0))[1]


@pytest.mark.parametrize(("structure", "shape", "groups"), FIXED)
def test_fixed_patterns_are_the_best_of_their_kind(structure: Any, shape: tuple[int, ...], groups: int) -> None:
    area = math.prod(shape[2:])
    scores = scores_of(shape)
    maker = structure.maker
    try:
        maker.support(shape, groups)
    except PrecutError:
        with pytest.raises(PrecutError, match="layer 'x': "):
            choose(structure, {"x": scores}, {"x": groups})
        return
    support = choose(structure, {"x": scores}, {"x": groups})["x"]
    total = float(scores[support.mask()].sum())
    rows = torch.arange(shape[0]) // (getattr(maker, "align", None) or 1)
    if isinstance(maker, NM):
        # at each position and class of outputs the best n classes of inputs, whatever the others do
        best = 0.0
        for o in range(maker.m):
            part = scores.view(*shape[:2], area)[torch.arange(shape[0]) % maker.m == o]
            for position in range(area):
                sums = [float(part[:, b :: maker.m, position].sum()) for b in range(maker.m)]
                best += sum(sorted(sums)[-maker.n :])
        mask = support.mask().view(shape[0], -1, maker.m, area)
        assert bool((mask.sum(2) == maker.n).all())
    else:
        residue = (rows[:, None] + torch.arange(shape[1])) % maker.period
        flat = scores.view(*shape[:2], area)
        sums = [flat[residue == r].sum(0) for r in range(maker.period)]
        top = [float(s.sort().values[-maker.kss :].sum()) for s in sums]
        best = sum(top)
        if maker.full_kernel:
            best = max(best - top[r] + float(sums[r].sum()) for r in range(maker.period))
        assert isinstance(support.maker, Periodic)
        assert (support.maker.kss, support.maker.period) == (maker.kss, maker.period)
    assert total == pytest.approx(best)
    assert support.table is not None


def test_some_pairs_get_nothing_and_some_everything() -> None:
    scores = torch.zeros(8, 8, 3, 3)
    scores[::2, ::2] = 1.0
    support = choose(structure_of("class:2"), {"a": scores}, {"a": 1}, 144)["a"]
    assert support.maker == ClassTable([[list(range(9)), []], [[], []]])


def test_layers_compete_and_an_allocation_stops_that() -> None:
    scores = {"a": torch.ones(4, 4, 3, 3), "b": torch.full((4, 4, 3, 3), 2.0)}
    groups = {"a": 1, "b": 1}
    found = choose(ClassPairs(2), scores, groups, 144)
    assert [found[name].nnz for name in "ab"] == [0, 144]
    found = choose(ClassPairs(2), scores, groups, {"a": 72, "b": 72})
    assert [found[name].nnz for name in "ab"] == [72, 72]
    found = choose(ClassPairs(2), scores, groups, 144, floors={"a": 5, "b": 5})
    assert [found[name].nnz for name in "ab"] == [8, 136]
    found = choose(ClassPairs(2), scores, groups, 144, prices={"a": 1.0, "b": 4.0})
    assert [found[name].nnz for name in "ab"] == [144, 0]


def test_what_an_earlier_round_dropped_does_not_come_back() -> None:
    scores = {"a": torch.ones(4, 4, 3, 3)}
    mask = ClassTable([[[0], [1]], [[2, 3], []]]).mask((4, 4, 3, 3))
    found = choose(ClassPairs(2), scores, {"a": 1}, 144, masks={"a": mask})
    assert torch.equal(found["a"].mask(), mask)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("class:8", ClassPairs(8)),
        ("class:8x4_A16", ClassPairs(8, 4, 16)),
        ("kernel", Kernels()),
        ("weight", SingleWeights()),
        ("block:16", Blocks(16)),
        ("block", Blocks(16)),
        ("PSD4_P8", StructuredPeriodic(parse("PSD4_P8"))),  # type: ignore[arg-type]
        (Periodic(4, 8), StructuredPeriodic(Periodic(4, 8))),
        (NM(2, 4), StructuredNM(NM(2, 4))),
        ("2:4", StructuredNM(NM(2, 4))),
        (Kernels(), Kernels()),
    ],
)
def test_spellings(given: Any, expected: Structure) -> None:
    assert structure_of(given) == expected
    assert structure_of(str(expected)) == expected


WRONG: list[tuple[Any, str]] = [
    ("klass:8", "unknown structure 'klass:8'"),
    (8, "unknown structure 8"),
    (ClassTable([[[0]]]), "unknown structure ClassTable(positions=(((0,),),), align=1)"),
    ("center", "unknown structure 'center'"),
]


@pytest.mark.parametrize(("given", "start"), WRONG)
def test_unknown_structures(given: Any, start: str) -> None:
    with pytest.raises(PrecutError) as caught:
        structure_of(given)
    assert str(caught.value) == (
        start + ": choose 'class:<period>' (every pair of residue classes keeps its own positions), 'kernel', "
        "'block:<output channels>', 'weight', or a Periodic or NM pattern or its name ('PSD4_P8', '2:4')"
    )


def test_wrong_uses() -> None:
    scores, groups = {"a": torch.ones(4, 4, 3, 3)}, {"a": 1}
    cases: list[tuple[Any, str]] = [
        (
            lambda: choose(ClassPairs(2), scores, groups),
            "structure 'class:2' needs a density: it can keep any share of the weights",
        ),
        (
            lambda: choose(structure_of("2:4"), scores, groups, 10),
            "structure '2:4' fixes how many weights there are; leave the density out",
        ),
        (
            lambda: choose(ClassPairs(2), {"a": torch.ones(4, 4, 3)}, groups, 5),
            "layer 'a' has a weight of shape (4, 4, 3); structures are for linear layers and 2-D convolutions: keep it "
            "as it is with ignored_layers=['a']",
        ),
        (
            lambda: choose(structure_of("PS4_P4"), {"a": torch.ones(4, 4)}, groups),
            "layer 'a': PS4_P4 asks for kss=4 weights of a 1x1 kernel, which has 1: choose kss <= 1, or leave such "
            "layers dense (ignored_layers)",
        ),
        (lambda: ClassPairs(0), "the period of class pairs must be a whole number of at least 1; got 0"),
        (lambda: Blocks(-2), "the size of blocks must be a whole number of at least 1; got -2"),
    ]
    for call, message in cases:
        with pytest.raises(PrecutError) as caught:
            call()
        assert str(caught.value) == message
