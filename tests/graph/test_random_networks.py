"""Random networks: captures run as the model, permutations change nothing, drops are exact, and coupling is what brute
force finds."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.nets import SIDE, Program, close, is_layer, randomise_, reached, without_inputs
from precut.errors import PrecutError
from precut.graph import ChannelSpaces, capture, drop, permute

programs = st.tuples(st.integers(0, 10**6), st.integers(1, 14))


def make(seed: int, steps: int, mixing: bool = True) -> tuple[Program, torch.Tensor]:
    model = randomise_(Program(seed, steps, mixing), seed)
    generator = torch.Generator().manual_seed(seed)
    return model, torch.randn(2, model.channels[0], SIDE, SIDE, generator=generator, dtype=torch.float64)  # type: ignore[return-value]


def orders(spaces: ChannelSpaces, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {space: torch.randperm(space.size, generator=generator) for space in spaces if space.frozen is None}


def check_capture(seed: int, steps: int) -> None:
    model, x = make(seed, steps)
    graph = capture(model, x)
    graph.verify()
    graph.verify(torch.randn(3, model.channels[0], SIDE, SIDE, dtype=torch.float64))


def check_permutation(seed: int, steps: int) -> None:
    model, x = make(seed, steps)
    spaces = capture(model, x).spaces
    moved = permute(model, orders(spaces, seed))
    assert close(moved(x), model(x))
    again = capture(moved, x).spaces
    assert [(s.size, s.frozen is None) for s in again] == [(s.size, s.frozen is None) for s in spaces]


def check_coupling(seed: int, steps: int) -> None:
    """Brute force agrees with the spaces: what one atom's channels reach are the positions that hold this atom."""
    model, x = make(seed, steps, mixing=False)
    graph = capture(model, x)
    analysis = graph.spaces.analysis
    layers = {name for name, module in model.named_modules() if is_layer(module)}
    held: dict[int, set[tuple[str, int]]] = {}
    for (owner, axis), found in analysis.found.axes.items():
        if axis == "in" and owner in layers and found.codes is not None:
            for position, atom in enumerate((found.codes >> 24).tolist()):
                held.setdefault(atom, set()).add((owner, position))
    reaching: dict[int, set[tuple[str, int]]] = {}
    functional = [
        axis for (owner, name), axis in analysis.found.axes.items() if name in ("in", "index") and owner not in layers
    ]
    for (layer, channel), places in reached(model, x).items():
        codes = analysis.found.axes[layer, "out"].codes
        reaching.setdefault(int(codes[channel] >> 24), set()).update(places)
    for space in graph.spaces:
        if space.frozen is None and not functional:  # functional layers and gathers pass channels on under other names
            padded = any("pad" in occurrence.owner for occurrence in space.occurrences)  # zeros that nothing disturbs
            for atom in space.atoms.tolist():
                there, expected = reaching.get(atom, set()), held.get(atom, set())
                assert there <= expected if padded else there == expected


def check_drop(seed: int, steps: int) -> None:
    model, x = make(seed, steps, mixing=False)
    graph = capture(model, x)
    draw = random.Random(seed)
    where = None
    for space in graph.spaces:
        if space.frozen is not None or not space.droppable or any(o.axis == "index" for o in space.occurrences):
            continue
        if any(kind == "functional" for kind, _ in model.code):
            continue
        where = where or reached(model, x)
        gone = sorted(draw.sample(range(space.size), draw.randint(1, space.size - 1)))
        positions: set[tuple[str, int]] = set()
        for occurrence in space.occurrences:
            if occurrence.axis == "out" and (occurrence.owner, 0) in where:
                for row in occurrence.positions[gone].ravel().tolist():
                    positions |= where[occurrence.owner, row]
        try:
            smaller = drop(model, space, gone)
        except PrecutError as error:
            if "picks" not in str(error):
                raise
            continue
        assert close(smaller(x), without_inputs(copy.deepcopy(model), positions)(x))
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


SETTINGS = settings(max_examples=40, deadline=None, derandomize=False)
MORE = settings(max_examples=1500, deadline=None)


@SETTINGS
@given(programs)
def test_interpreter_gives_the_models_outputs(program: tuple[int, int]) -> None:
    check_capture(*program)


@SETTINGS
@given(programs)
def test_permuting_every_space_changes_no_output(program: tuple[int, int]) -> None:
    check_permutation(*program)


@SETTINGS
@given(programs)
def test_coupling_is_what_brute_force_finds(program: tuple[int, int]) -> None:
    check_coupling(*program)


@SETTINGS
@given(programs)
def test_dropping_equals_zeros_where_the_channels_were_read(program: tuple[int, int]) -> None:
    check_drop(*program)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_capture, check_permutation, check_coupling, check_drop])
def test_many_random_networks(check) -> None:
    MORE(given(programs)(lambda program: check(*program)))()
