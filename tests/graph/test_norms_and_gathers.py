"""Norms over and of channels, index tensors, and padding of channels."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.nets import close, randomise_, without_inputs
from graph.small import X, drop_is_exact, line, net, permutation_changes_nothing, told
from precut import PrecutError
from precut.graph import (
    capture,
    drop,
    permute,
)

SEVERAL = "group_norm (norm, {}) takes statistics over several channels"
OVER_ALL = "_norm (norm, {}) takes statistics over the channels"
NORMS: list[tuple[Callable[..., Tensor], nn.Module, str]] = [
    (lambda m, x: m.norm(x), nn.GroupNorm(1, 6), SEVERAL),
    (lambda m, x: m.norm(x), nn.GroupNorm(2, 6), SEVERAL),
    (lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(6), "layer" + OVER_ALL),
    (lambda m, x: m.norm(x), nn.LayerNorm((6, 6, 6)), "layer" + OVER_ALL),
    (lambda m, x: m.norm(x.movedim(1, -1)).movedim(-1, 1), nn.RMSNorm(6), "rms" + OVER_ALL),
    (lambda m, x: m.norm(x), nn.Softmax(1), "softmax (norm, {}) takes a sum over the channels"),
    (lambda m, x: x * x.mean(1, keepdim=True), nn.Identity(), "mean (mean, {}) reduces over the channels"),
    (lambda m, x: x * x.amax((1, 2), True), nn.Identity(), "amax (amax, {}) reduces over the channels"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "norm", "reason"), NORMS)
def test_norms_over_channels_allow_permutations_and_no_drops(
    function: Callable[..., Tensor], norm: nn.Module, reason: str
) -> None:
    _, spaces = net(lambda m, x: function(m, m.one(x)), 6, one=nn.Conv2d(4, 6, 1), norm=norm)
    sizes = [space.size for space in spaces if space.frozen is None]
    assert sizes == ([3, 3] if isinstance(norm, nn.GroupNorm) and norm.num_groups == 2 else [6])
    space = next(space for space in spaces if space.frozen is None)
    told_reason = space.why_not(space.size - 1)
    if sizes == [3, 3]:
        assert told_reason is not None
    else:
        assert told_reason == reason.format(line(function, 0))


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(6, 6),
        nn.GroupNorm(6, 6, affine=False),
        nn.InstanceNorm2d(6, affine=True),
        nn.BatchNorm2d(6),
        nn.PReLU(6),
        nn.PReLU(),
    ],
)
def test_norms_of_each_channel_allow_both(norm: nn.Module) -> None:
    model, spaces = net(lambda m, x: m.norm(m.one(x)), 6, one=nn.Conv2d(4, 6, 1), norm=norm)
    drop_is_exact(model, spaces[1], [0, 1, 4])


def test_a_sum_over_channels_loses_what_is_dropped() -> None:
    model, spaces = net(lambda m, x: m.one(x).sum(1, keepdim=True).expand(-1, 2, -1, -1), 2, one=nn.Conv2d(4, 6, 1))
    gone = copy.deepcopy(model)
    with torch.no_grad():
        gone.one.weight[[1, 2]] = 0
        gone.one.bias[[1, 2]] = 0
    assert close(drop(model, spaces[1], [1, 2])(X), gone(X))


def test_a_norm_of_the_channel_vector_loses_what_is_dropped() -> None:
    model, spaces = net(lambda m, x: F.normalize(m.one(x)), 6, one=nn.Conv2d(4, 6, 1))
    assert close(
        drop(model, spaces[1], [5])(X),
        model.head(F.normalize(model.one(X) * torch.tensor([1, 1, 1, 1, 1, 0])[:, None, None])),
    )


class Links(nn.Module):
    """A cell with long-range links that pick channels, as random DenseNets have them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(9, 3, 1)
        self.register_buffer("links", torch.tensor([7, 0, 5]))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = self.b(a)
        return self.c(torch.cat([b, torch.cat([a, x], 1)[:, self.links]], 1))


def test_index_buffers_are_rewritten() -> None:
    model = randomise_(Links())
    spaces = capture(model, X).spaces
    assert told(spaces[1]) == {"a.out": [[0, 1, 2, 3, 4, 5]], "b.in": [[0, 1, 2, 3, 4, 5]]}
    picked = spaces[3]
    assert told(picked) == {"links.index": [[0, 1, 2]], "c.in": [[6, 7, 8]]}
    permutation_changes_nothing(model, spaces)
    moved = permute(model, spaces[1], [5, 4, 3, 2, 1, 0])
    assert moved.links.tolist() == [7, 5, 0]
    assert close(moved(X), model(X))
    # What picks a dropped channel goes with it.
    smaller = drop(model, spaces[1], [0, 2])
    assert smaller.links.tolist() == [5, 3]
    assert smaller.c.in_channels == 8
    assert close(smaller(X), without_inputs(copy.deepcopy(model), {("b", 0), ("b", 2), ("c", 7)})(X))
    assert drop(model, picked, [2]).links.tolist() == [7, 0]


class Picked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(4, 2, 1), nn.Linear(2 * 25, 3)
        self.register_buffer("links", torch.tensor([0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x)[:, self.links].flatten(1))


def test_not_all_that_an_index_picks_may_go() -> None:
    model, x = randomise_(Picked()), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    space = capture(model, x).spaces[1]
    assert close(drop(model, space, [1])(x), model(x))
    with pytest.raises(PrecutError, match="no channel would be left of those that an index tensor picks, and 'head'"):
        drop(model, space, [0])


def test_positions_that_are_no_buffer_stay() -> None:
    _, spaces = net(lambda m, x: m.one(x)[:, [3, 0, 1]], 3, one=nn.Conv2d(4, 6, 1))
    assert [space.size for space in spaces] == [4, 3, 3, 3]
    assert not spaces[1].droppable


class Pad(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class OpenPad(Pad):
    def take_channels_(self, axis: str, index: Tensor) -> None:
        assert axis == "pad"
        before = int((index < self.before).sum())
        self.before, self.after = before, len(index) - before


def test_padding_by_a_fixed_number_of_channels() -> None:
    model, spaces = net(
        lambda m, x: m.pad(m.one(x)) + m.two(x), 6, one=nn.Conv2d(4, 3, 1), two=nn.Conv2d(4, 6, 1), pad=Pad(1, 2)
    )
    inner, outer = spaces[1], spaces[2]
    assert told(inner) == {"one.out": [[0, 1, 2]], "two.out": [[1, 2, 3]], "head.in": [[1, 2, 3]]}
    assert told(outer) == {"<pad.pad>.out": [[0, 1, 2]], "two.out": [[0, 4, 5]], "head.in": [[0, 4, 5]]}
    drop_is_exact(model, inner, [1])
    where = line(Pad.forward, 1)
    assert outer.undroppable == f"pad (pad.pad, {where}) pads a number of channels that is fixed in the model's code"
    open_model, spaces = net(
        lambda m, x: m.pad(m.one(x)) + m.two(x), 6, one=nn.Conv2d(4, 3, 1), two=nn.Conv2d(4, 6, 1), pad=OpenPad(1, 2)
    )
    smaller = drop_is_exact(open_model, spaces[2], [0, 2])
    assert smaller.pad.before + smaller.pad.after == 1


def test_zeros_that_are_concatenated() -> None:
    _, spaces = net(
        lambda m, x: torch.cat([y := m.one(x), torch.zeros(y.shape[0], 2, 6, 6, dtype=y.dtype)], 1) + m.two(x),
        8, one=nn.Conv2d(4, 6, 1), two=nn.Conv2d(4, 8, 1),
    )  # fmt: skip
    assert [space.size for space in spaces] == [4, 6, 2, 3]
    assert "joins a number of channels that is fixed in the model's code" in str(spaces[2].undroppable)
