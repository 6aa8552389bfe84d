"""Questions to spaces, edits of models by them, and wrong uses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graph.small import X, net
from precut.errors import PrecutError
from precut.graph import (
    ChannelSpaces,
    capture,
    drop,
    drop_,
    permute,
    permute_,
    restrict,
    restrict_,
    take,
    take_,
)


def test_layout_of_values() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ChannelShuffle(2), nn.Conv2d(6, 2, 1)).double().eval()
    graph = capture(model, X)
    ids, places = graph.spaces.layout(graph.node("1").output)  # type: ignore[misc]
    assert ids.tolist() == [1] * 6
    assert places.tolist() == [0, 3, 1, 4, 2, 5]
    assert graph.spaces.channel_dim(graph.node("1").output) == 1
    assert graph.spaces.find("0") == [graph.spaces[1]]
    assert graph.spaces.find("2", "in") == [graph.spaces[1]]
    flat = capture(nn.Linear(6, 6).double(), X)
    assert flat.spaces.channel_dim(flat.inputs[0]) == 1
    vector = capture(nn.Sequential(), torch.zeros(3))
    assert vector.spaces.layout(vector.inputs[0]) is None
    assert vector.spaces.channel_dim(vector.inputs[0]) is None


def test_edits_keep_what_parameters_are() -> None:
    model, spaces = net(lambda m, x: m.one(x), 6, one=nn.Conv2d(4, 6, 3))
    model = model.to(memory_format=torch.channels_last)
    model.one.bias.requires_grad_(False)
    model(X).sum().backward()
    gradient = model.one.weight.grad.clone()
    smaller = restrict_(model, spaces[1], 4)
    assert not smaller.one.bias.requires_grad
    assert smaller.one.weight.requires_grad
    assert smaller.one.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(smaller.one.weight.grad, gradient[:4])
    assert smaller.head.weight.grad.shape == smaller.head.weight.shape == (3, 4, 1, 1)


def test_edits_in_place_and_on_copies() -> None:
    model, spaces = net(lambda m, x: m.one(x), 6, one=nn.Conv2d(4, 6, 3))
    for edit, same, argument in (
        (drop, drop_, [1]),
        (permute, permute_, [5, 4, 3, 2, 1, 0]),
        (restrict, restrict_, 2),
        (take, take_, [3, 1]),
    ):
        copied = copy.deepcopy(model)
        assert same(copied, spaces[1], argument) is copied
        made = edit(model, spaces[1], argument)
        assert made is not model
        for first, second in zip(made.parameters(), copied.parameters(), strict=True):
            assert torch.equal(first, second)
    again = take(model, {spaces[1]: torch.tensor([2, 0])})
    assert torch.equal(again.one.weight, model.one.weight[[2, 0]])
    assert take(model, spaces[1], np.arange(6)).one.weight is not model.one.weight


def test_a_model_made_by_name_keeps_its_recipe() -> None:
    import precut

    model = precut.create_model("resnet8", width_mult=0.5)
    spaces = capture(model, torch.zeros(1, 3, 32, 32)).spaces
    space = next(space for space in spaces if space.frozen is None)
    assert permute(model, space, list(range(space.size))[::-1]).precut_spec == model.precut_spec
    assert restrict(model, space, 2).precut_spec == model.precut_spec  # a checkpoint notes the sizes that differ


# ---- wrong uses ------------------------------------------------------------------------------------------------------


def _wrong() -> tuple[nn.Module, ChannelSpaces]:
    model = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)).double()
    return model, capture(model, X).spaces


WRONG: list[tuple[Callable[[nn.Module, ChannelSpaces], Any], str]] = [
    (lambda m, s: restrict(m, s[1], 0), "restrict keeps 1 to 6 channels of space 1; got 0"),
    (lambda m, s: restrict(m, s[1], 7), "restrict keeps 1 to 6 channels of space 1; got 7"),
    (lambda m, s: restrict(m, s[1], True), "restrict keeps 1 to 6 channels of space 1; got True"),
    (lambda m, s: restrict(m, s[0], 2), "the channels of space 0 cannot change: they are an input of the network"),
    (lambda m, s: drop(m, s[2], [0]), "the channels of space 2 cannot change: they are an output of the network"),
    (lambda m, s: drop(m, s[1], [6]), "drop got channels outside 0..5 of space 1: [6]"),
    (lambda m, s: drop(m, s[1], [1, 1]), "drop got a channel of space 1 twice: [1, 1]"),
    (lambda m, s: drop(m, s[1], range(6)), "drop would leave no channel of space 1, which has 6"),
    (lambda m, s: drop(m, s[1], 2), "drop needs a list of channel numbers; got 2"),
    (lambda m, s: take(m, s[1], [0.5]), "take needs a list of channel numbers; got [0.5]"),
    (lambda m, s: take(m, s[1], []), "take would leave no channel of space 1, which has 6"),
    (lambda m, s: permute(m, s[1], [0, 1]), "permute needs each of the 6 channels of space 1 once; got 2"),
    (
        lambda m, s: permute(m, 1, [0, 1]),
        "permute takes a ChannelSpace and its permute argument, or a dict from ChannelSpaces to these; got int; "
        "graph.spaces lists the spaces",
    ),
    (
        lambda m, s: take(m, {s[1]: [0], _wrong()[1][1]: [0]}),
        "take got spaces of different graphs; use those of one capture",
    ),
    (lambda m, s: drop(X, s[1], [0]), "channels are taken of an nn.Module; got Tensor"),
    (
        lambda m, s: drop(nn.Sequential(nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)), s[1], [0]),
        "'0.weight' has 5 channels, not the 6 that were captured: the model has changed since; capture it again",
    ),
    (
        lambda m, s: drop(nn.ReLU(), s[1], [0]),
        "the model has no '0.weight': the spaces are of another model; capture this one",
    ),
    (lambda m, s: s[1].why_not(9), "space 1: the channels left must be a whole number from 1 to 6; got 9"),
    (lambda m, s: s.find("7"), "no channels are followed in axis 'out' of '7'"),
    (lambda m, s: s.layout("x"), "'x' is no value of this graph"),
    (
        lambda m, s: s.channel_dim(capture(m, X).inputs[0]),
        "Value('input', (2, 4, 6, 6), float64) is no value of this graph",
    ),
    (lambda m, s: s.graph.depth(3), "3 is no value of this graph"),
    (lambda m, s: s.graph.node("2"), "unknown node '2': choose one of '0', '1'"),
]  # fmt: skip


@pytest.mark.parametrize(("use", "message"), WRONG)
def test_wrong_uses(use: Callable[..., Any], message: str) -> None:
    model, spaces = _wrong()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PrecutError) as error:
        use(model, spaces)
    assert str(error.value) == message
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_refused_edit_in_place_leaves_the_model_as_it_was() -> None:
    model, spaces = net(lambda m, x: m.two(m.one(x)), 4, one=nn.Conv2d(4, 6, 1), two=nn.Conv2d(6, 4, 1, groups=2))
    before = copy.deepcopy(model)
    with pytest.raises(PrecutError, match="channels cannot be taken so: conv2d"):
        drop_(model, spaces[1], [0])
    assert torch.equal(model(X), before(X))
