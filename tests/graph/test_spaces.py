"""Which channels are coupled, movable and removable, on small networks whose answer is known."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.nets import close, randomise_, without_inputs
from precut.errors import PrecutError
from precut.graph import (
    ChannelSpace,
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
from precut.layers import SparseConv2d

X = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Members by name, and a function for forward. ``head`` reads what the function returns."""

    def __init__(self, function: Callable[..., Tensor], head: int | None = None, **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.function = function
        self.head = nn.Conv2d(head, 3, 1) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, x))


def net(function: Callable[..., Tensor], head: int | None = None, **members: Any) -> tuple[nn.Module, ChannelSpaces]:
    model = randomise_(Net(function, head, **members))
    graph = capture(model, X)
    graph.verify()
    permutation_changes_nothing(model, graph.spaces)
    return model, graph.spaces


def permutation_changes_nothing(model: nn.Module, spaces: ChannelSpaces, x: Tensor = X) -> None:
    generator = torch.Generator().manual_seed(1)
    orders = {s: torch.randperm(s.size, generator=generator) for s in spaces if s.frozen is None}
    assert close(permute(model, orders)(x), model(x))


def told(space: ChannelSpace) -> dict[str, list[list[int]]]:
    return {f"{o.owner}.{o.axis}": o.positions.T.tolist() for o in space.occurrences}


def drop_is_exact(model: nn.Module, space: ChannelSpace, gone: list[int], x: Tensor = X) -> nn.Module:
    smaller = drop(model, space, gone)
    zeros = {(o.owner, p) for o in space.occurrences if o.axis == "in" for p in o.positions[gone].ravel().tolist()}
    assert close(smaller(x), without_inputs(copy.deepcopy(model), zeros)(x))
    return smaller


# ---- what is coupled -------------------------------------------------------------------------------------------------


def test_a_chain() -> None:
    model, spaces = net(
        lambda m, x: m.two(F.relu(m.norm(m.one(x)))),
        5,
        one=nn.Conv2d(4, 6, 3),
        norm=nn.BatchNorm2d(6),
        two=nn.Conv2d(6, 5, 1),
    )
    assert [(space.size, space.frozen) for space in spaces] == [
        (4, "they are an input of the network"),
        (6, None),
        (5, None),
        (3, "they are an output of the network"),
    ]
    every = [list(range(6))]
    assert told(spaces[1]) == {"one.out": every, "norm.param": every, "two.in": every}
    assert spaces[1].producers == ("one",)
    assert spaces[1].consumers == ("two",)
    assert spaces[1].droppable
    smaller = drop_is_exact(model, spaces[1], [0, 3])
    assert smaller.one.weight.shape == (4, 4, 3, 3)
    assert (smaller.one.out_channels, smaller.norm.num_features, smaller.two.in_channels) == (4, 4, 4)
    assert restrict(model, spaces[1], 2).norm.running_mean.tolist() == model.norm.running_mean[:2].tolist()
    assert repr(spaces[1]) == "ChannelSpace(1: 6 channels, one.out, norm.param, two.in)"
    assert repr(spaces) == "ChannelSpaces(4 spaces, 2 that may move)"


def test_an_addition_couples_and_a_concatenation_appends() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a = m.one(x) + m.two(x)
        return torch.cat([a, m.three(x), a.relu()], 1)

    model, spaces = net(forward, 14, one=nn.Conv2d(4, 5, 1), two=nn.Conv2d(4, 5, 1), three=nn.Conv2d(4, 4, 1))
    first, second = spaces[1], spaces[2]
    assert told(first) == {
        "one.out": [[0, 1, 2, 3, 4]],
        "two.out": [[0, 1, 2, 3, 4]],
        "head.in": [[0, 1, 2, 3, 4], [9, 10, 11, 12, 13]],
    }
    assert told(second) == {"three.out": [[0, 1, 2, 3]], "head.in": [[5, 6, 7, 8]]}
    assert first.producers == ("one", "two")
    drop_is_exact(model, first, [1, 4])
    drop_is_exact(model, second, [0])


def test_a_flattened_map_repeats_each_channel() -> None:
    model, spaces = net(
        lambda m, x: m.fc(m.one(x).flatten(1))[..., None, None], 7, one=nn.Conv2d(4, 3, 5), fc=nn.Linear(12, 7)
    )
    assert told(spaces[1]) == {"one.out": [[0, 1, 2]], "fc.in": [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]}
    drop_is_exact(model, spaces[1], [1])


def test_a_linear_layer_added_to_a_flattened_map_moves_in_blocks() -> None:
    model, spaces = net(
        lambda m, x: m.fc(m.one(x).flatten(1) + m.side(x.mean((2, 3))))[..., None, None],
        7, one=nn.Conv2d(4, 3, 5), side=nn.Linear(4, 12), fc=nn.Linear(12, 7),
    )  # fmt: skip
    assert told(spaces[1])["side.out"] == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    drop_is_exact(model, spaces[1], [0, 2])


def test_depthwise_layers_follow_their_input() -> None:
    model, spaces = net(lambda m, x: m.dw(m.one(x)), 6, one=nn.Conv2d(4, 3, 1), dw=nn.Conv2d(3, 6, 3, groups=3))
    assert told(spaces[1]) == {
        "one.out": [[0, 1, 2]],
        "dw.out": [[0, 2, 4], [1, 3, 5]],
        "head.in": [[0, 2, 4], [1, 3, 5]],
    }
    smaller = drop_is_exact(model, spaces[1], [1])
    assert (smaller.dw.groups, smaller.dw.in_channels, smaller.dw.out_channels) == (2, 2, 4)


def test_groups_do_not_mix() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.grouped(m.one(x))

    model, spaces = net(forward, 4, one=nn.Conv2d(4, 6, 1), grouped=nn.Conv2d(6, 4, 1, groups=2))
    assert [told(space).get("grouped.in", told(space).get("grouped.out")) for space in list(spaces)[1:5]] == [
        [[0, 1, 2]],
        [[3, 4, 5]],
        [[0, 1]],
        [[2, 3]],
    ]
    one, two = spaces[1], spaces[2]
    assert one.undroppable == f"conv2d (grouped, {_line(forward, 1)}) cannot divide 5 channels into 2 groups"
    assert not one.droppable
    both = take(model, {one: [0, 2], two: [1, 0]})
    assert both.grouped.weight.shape == (4, 2, 1, 1)
    assert close(both(X), without_inputs(copy.deepcopy(model), {("grouped", 1), ("grouped", 5)})(X))


def _line(function: Callable[..., Any], offset: int) -> str:
    """ "file.py:line" of the line ``offset`` after the ``def`` of a function."""
    return f"test_spaces.py:{function.__code__.co_firstlineno + offset}"


def test_shuffles_and_halves() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        kept, changed = m.one(x).chunk(2, 1)
        return F.channel_shuffle(torch.cat([kept, m.two(changed)], 1), 2)

    model, spaces = net(forward, 8, one=nn.Conv2d(4, 8, 1), two=nn.Conv2d(4, 4, 1))
    assert told(spaces[1]) == {"one.out": [[0, 1, 2, 3]], "head.in": [[0, 2, 4, 6]]}
    assert told(spaces[2]) == {"one.out": [[4, 5, 6, 7]], "two.in": [[0, 1, 2, 3]]}
    assert told(spaces[3]) == {"two.out": [[0, 1, 2, 3]], "head.in": [[1, 3, 5, 7]]}
    where = _line(forward, 1)
    assert spaces[1].undroppable == (
        f"chunk (chunk, {where}) would take other channels, by positions that are fixed in the model's code"
    )
    # Halves that shrink together, and both operands of the shuffle, are fine.
    smaller = restrict(model, {spaces[1]: 3, spaces[2]: 3, spaces[3]: 3})
    zeros = {("head", 6), ("head", 7), ("two", 3)}
    assert close(smaller(X), without_inputs(copy.deepcopy(model), zeros)(X))


def test_a_slice_that_the_code_fixes_and_one_that_follows() -> None:
    _, spaces = net(lambda m, x: m.one(x)[:, :2], 2, one=nn.Conv2d(4, 6, 1))
    assert [space.size for space in spaces] == [4, 2, 4, 3]
    assert "getitem" in str(spaces[1].undroppable)
    assert spaces[2].droppable  # nothing reads these
    follows, spaces = net(
        lambda m, x: (y := m.one(x))[:, : y.shape[1] // 2] * y[:, y.shape[1] // 2 :].sigmoid(),
        3,
        one=nn.Conv2d(4, 6, 1),
    )
    assert told(spaces[1]) == {"one.out": [[0, 1, 2], [3, 4, 5]], "head.in": [[0, 1, 2]]}
    smaller = drop_is_exact(follows, spaces[1], [1])
    assert smaller.one.out_channels == 4


def test_gates_couple() -> None:
    model, spaces = net(
        lambda m, x: (y := m.one(x)) * torch.sigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(y, 1))))),
        6, one=nn.Conv2d(4, 6, 1), down=nn.Conv2d(6, 2, 1), up=nn.Conv2d(2, 6, 1),
    )  # fmt: skip
    assert set(told(spaces[1])) == {"one.out", "down.in", "up.out", "head.in"}
    drop_is_exact(model, spaces[1], [0, 5])
    drop_is_exact(model, spaces[2], [1])


def test_a_map_of_one_channel_does_not_couple() -> None:
    model, spaces = net(
        lambda m, x: (y := m.one(x)) * torch.sigmoid(m.map(y)), 6, one=nn.Conv2d(4, 6, 1), map=nn.Conv2d(6, 1, 1)
    )
    assert set(told(spaces[1])) == {"one.out", "map.in", "head.in"}
    assert spaces[1].droppable
    assert spaces[2].undroppable == "it has a single channel"
    drop_is_exact(model, spaces[1], [2])


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
        assert told_reason == reason.format(_line(function, 0))


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(6, 6), nn.InstanceNorm2d(6, affine=True), nn.BatchNorm2d(6), nn.PReLU(6), nn.PReLU()]
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


def test_parameters_that_functions_use() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = F.conv2d(x, m.w, m.b, padding=1)
        y = F.batch_norm(y, m.mean, m.var, m.scale)
        y = F.prelu(y * m.gamma + m.shift.view(-1, 1, 1) + m.place, m.slope)
        return F.linear(y.permute(0, 2, 3, 1), m.v, m.c).permute(0, 3, 1, 2)

    p = nn.Parameter
    model = Net(
        forward, 5, w=p(torch.empty(6, 4, 3, 3)), b=p(torch.empty(6)), scale=p(torch.empty(6)),
        gamma=p(torch.empty(6, 1, 1)), shift=p(torch.empty(6)), place=p(torch.empty(1, 6, 6, 6)),
        slope=p(torch.empty(6)),
        v=p(torch.empty(5, 6)), c=p(torch.empty(5)),
    )  # fmt: skip
    model.register_buffer("mean", torch.empty(6))
    model.register_buffer("var", torch.empty(6))
    randomise_(model)
    spaces = capture(model, X).spaces
    permutation_changes_nothing(model, spaces)
    owners = {f"{o.owner}.{o.axis}" for o in spaces[1].occurrences}
    assert owners == {
        "w.out", "b.param", "mean.param", "var.param", "scale.param", "gamma.param", "shift.param",
        "place.param", "slope.param", "v.in",
    }  # fmt: skip
    smaller = drop(model, spaces[1], [0, 2])
    zeros = copy.deepcopy(model)
    with torch.no_grad():
        zeros.v[:, [0, 2]] = 0
    assert close(smaller(X), zeros(X))
    assert smaller.w.shape == (4, 4, 3, 3)
    assert isinstance(smaller.w, nn.Parameter)
    assert [o.owner for o in spaces[2].occurrences] == ["v", "c", "head"]
    drop_is_exact(model, spaces[2], [1])


def test_a_module_that_is_called_twice_couples_both_calls() -> None:
    model, spaces = net(
        lambda m, x: m.shared(m.shared(m.one(x)).relu()),
        5,
        one=nn.Conv2d(4, 5, 1),
        shared=nn.Conv2d(5, 5, 3, padding=1),
    )
    assert set(told(spaces[1])) == {"one.out", "shared.in", "shared.out", "head.in"}
    drop_is_exact(model, spaces[1], [2])


def test_parameters_that_modules_share_stay_shared() -> None:
    one, two = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1)
    two.weight = one.weight
    model, spaces = net(lambda m, x: torch.cat([m.one(x), m.two(x).relu()], 1), 10, one=one, two=two)
    assert told(spaces[1])["head.in"] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    smaller = drop_is_exact(model, spaces[1], [0])
    assert smaller.one.weight is smaller.two.weight
    assert smaller.one.weight.shape == (4, 4, 1, 1)


def test_transposed_and_other_dimensions() -> None:
    model, spaces = net(
        lambda m, x: m.two(m.one(x)),
        4,
        one=nn.ConvTranspose2d(4, 6, 3, padding=1, groups=2),
        two=nn.ConvTranspose2d(6, 4, 1),
    )
    assert [space.size for space in spaces if space.frozen is None] == [3, 3, 4]
    drop_is_exact(model, spaces[-2], [1])
    both = restrict(model, {spaces[2]: 2, spaces[3]: 2})
    assert close(both(X), without_inputs(copy.deepcopy(model), {("two", 2), ("two", 5)})(X))
    for dims, conv in ((1, nn.Conv1d), (3, nn.Conv3d)):
        small = randomise_(nn.Sequential(conv(4, 6, 1), nn.ReLU(), conv(6, 2, 1)))
        x = torch.randn(2, 4, *(3,) * dims, dtype=torch.float64)
        inner = capture(small, x).spaces[1]
        permutation_changes_nothing(small, capture(small, x).spaces, x)
        assert drop(small, inner, [0])(x).shape == small(x).shape


def test_pixel_shuffle_moves_blocks() -> None:
    model, spaces = net(lambda m, x: F.pixel_shuffle(m.one(x), 2), 3, one=nn.Conv2d(4, 12, 1))
    assert told(spaces[1]) == {"one.out": [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]], "head.in": [[0, 1, 2]]}
    drop_is_exact(model, spaces[1], [1])


def test_layers_along_other_dimensions_pass_channels_on() -> None:
    model, spaces = net(lambda m, x: m.mix(m.one(x)), 6, one=nn.Conv2d(4, 6, 1), mix=nn.Linear(6, 8))
    assert set(told(spaces[1])) == {"one.out", "head.in"}
    drop_is_exact(model, spaces[1], [3])


# ---- gathers and padding -------------------------------------------------------------------------------------------


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
    where = _line(Pad.forward, 1)
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


# ---- what is frozen --------------------------------------------------------------------------------------------------

ROWS = nn.Buffer(torch.tensor([5, 0]))
HIDDEN = torch.randn(6, 1, 1, dtype=torch.float64)
FROZEN: list[tuple[Callable[..., Tensor], str]] = [
    (lambda m, x: m.one(x).cumsum(1), "torch.cumsum (cumsum, {}) is not followed"),
    (
        lambda m, x: m.one(x) * HIDDEN,
        "mul (mul, {}) joins them with channels that are not followed (it uses a tensor that is neither a parameter "
        "nor a buffer of the model)",
    ),
    (
        lambda m, x: F.interpolate(m.one(x).transpose(1, 2), scale_factor=2)[:, :, :6].transpose(1, 2),
        "interpolate (interpolate, {}) works along a dimension that holds channels",
    ),
    (lambda m, x: m.one(x).transpose(1, 3) + m.one(x), "add (add, {}) joins channels of different dimensions"),
    (lambda m, x: m.one(x).cummax(1)[0], "torch.cummax (cummax, {}) is not followed"),
    (
        lambda m, x: m.one(x)[:, (x[0, 0, 0] > 99).long()],
        "getitem (getitem#2, {}) takes channels by computed positions",
    ),
    (lambda m, x: F.local_response_norm(m.one(x), 3), "local_response_norm (local_response_norm, {}) is not followed"),
    (
        lambda m, x: m.one(x).max(1, keepdim=True)[0].expand(-1, 6, -1, -1),
        "max (max, {}) returns positions of channels",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("function", "reason"), FROZEN)
def test_what_is_not_followed_freezes_and_says_where(function: Callable[..., Tensor], reason: str) -> None:
    _, spaces = net(function, 6, one=nn.Conv2d(4, 6, 1))
    assert reason.format(_line(function, 0)) in {space.frozen for space in spaces}
    space = next(space for space in spaces if any(o.owner == "one" and o.axis == "out" for o in space.occurrences))
    assert space.frozen is not None
    assert space.undroppable == space.frozen


def test_computed_weights_freeze() -> None:
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 5, 1))
    _, spaces = net(lambda m, x: m.two(m.one(x)), 5, one=nn.Conv2d(4, 6, 1), two=normed)
    assert "takes a weight that is no parameter or buffer of the model" in str(spaces[1].frozen)
    torch.nn.utils.prune.random_unstructured(pruned := nn.Conv2d(6, 5, 1), "weight", 0.5)
    model = nn.Sequential(nn.Conv2d(4, 6, 1), pruned).double().eval()
    assert capture(model, X).spaces[1].frozen == "conv2d (1) computes its weight (a mask or parametrization)"


def test_sparse_layers_that_share_weights_or_have_groups_are_frozen() -> None:
    one, two = (
        SparseConv2d(6, 6, 3, padding=1, support="PSD1_P16"),
        SparseConv2d(6, 6, 3, padding=1, support="PSD1_P16"),
    )
    two.weight = one.weight
    model = nn.Sequential(nn.Conv2d(4, 6, 1), one, nn.ReLU(), two, nn.Conv2d(6, 2, 1)).double().eval()
    assert [s.frozen for s in capture(model, X).spaces if "1.out" in told(s)] == [
        "'3' and '1' share parameter '1.weight'"
    ]
    grouped = SparseConv2d(6, 6, 3, groups=2, support="PSD1_P16")
    model = nn.Sequential(nn.Conv2d(4, 6, 1), grouped, nn.Conv2d(6, 2, 1)).double().eval()
    assert capture(model, X).spaces[1].frozen == "conv2d (1) counts its input channels within groups"


class Halved(nn.Module):
    """Somebody's layer that follows the protocol: its weights are stored under another name."""

    precut_op = "conv2d"

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(out_channels, in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oi,nihw->nohw", self.values, x) / 2


class Editable(Halved):
    def take_channels_(self, axis: str, index: Tensor) -> None:
        self.values = nn.Parameter(self.values.index_select({"out": 0, "in": 1}[axis], index))


def test_other_peoples_layers_that_follow_the_protocol() -> None:
    model, spaces = net(lambda m, x: m.two(m.one(x)), 5, one=nn.Conv2d(4, 6, 1), two=Editable(6, 5))
    assert told(spaces[1]) == {"one.out": [[0, 1, 2, 3, 4, 5]], "two.in": [[0, 1, 2, 3, 4, 5]]}
    assert restrict(model, spaces[1], 3).two.values.shape == (5, 3)
    assert restrict(model, {spaces[1]: 3, spaces[2]: 2}).two.values.shape == (2, 3)
    _, spaces = net(lambda m, x: m.two(m.one(x)), 5, one=nn.Conv2d(4, 6, 1), two=Halved(6, 5))
    assert spaces[1].frozen == f"conv2d (two, {spaces.graph.node('two').source}) is a Halved without take_channels_"


def test_lists_of_positions_along_several_dimensions() -> None:
    model, spaces = net(lambda m, x: m.one(x)[0:2, :, [1, 2]], 6, one=nn.Conv2d(4, 6, 1))
    drop_is_exact(model, spaces[1], [2])
    model, spaces = net(lambda m, x: m.one(x)[0, :, [1, 2]][None], 6, one=nn.Conv2d(4, 6, 1))  # torch selects first
    drop_is_exact(model, spaces[1], [2])
    _, spaces = net(lambda m, x: m.one(x)[:, :, [1, 2], [3, 3]][..., None], 6, one=nn.Conv2d(4, 6, 1))
    assert "takes positions of several dimensions at once" in str(spaces[1].frozen)
    model, spaces = net(
        lambda m, x: m.one(x)[:, :, m.rows][:, :, (x[0, 0, 0] > 9).long()], 6, one=nn.Conv2d(4, 6, 1), rows=ROWS
    )
    drop_is_exact(model, spaces.find("one")[0], [2])
    _, spaces = net(lambda m, x: m.one(x)[:, :, (x[0, 0, :2] > 9).long()][..., 0], 6, one=nn.Conv2d(4, 6, 1))
    assert "takes positions by a tensor that is no list of positions" in str(spaces.find("one")[0].frozen)


def test_constants_of_different_values_are_not_alike() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        flags = torch.cat([torch.zeros(1, 3, 1, 1, dtype=x.dtype), torch.ones(1, 3, 1, 1, dtype=x.dtype)], 1)
        return m.one(x) * flags

    _, spaces = net(forward, 6, one=nn.Conv2d(4, 6, 1))
    assert spaces[1].frozen is not None


def test_a_parameter_that_is_used_elsewhere_is_frozen() -> None:
    _, spaces = net(lambda m, x: m.one(x) * m.one.weight.cumsum(0).sum(), 6, one=nn.Conv2d(4, 6, 1))
    assert "torch.cumsum" in str(next(s for s in spaces if "one.out" in told(s)).frozen)


def test_numbers_of_channels_that_the_code_uses() -> None:
    def scaled(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return y / math.sqrt(y.shape[1])

    def checked(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        if y.shape[1] > 4:
            y = y * 2
        return y

    def counted(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return y * y.shape[1]

    for function, line in ((scaled, 2), (checked, 2)):
        _, spaces = net(function, 6, one=nn.Conv2d(4, 6, 1))
        source = _line(function, line)
        assert spaces[1].undroppable == f"the model's code at {source} depends on the number of channels"
    assert spaces[1].why_not(5) is None  # the comparison comes out the same
    _, spaces = net(counted, 6, one=nn.Conv2d(4, 6, 1))
    source = _line(counted, 2)
    assert spaces[1].undroppable == f"mul (mul, {source}) computes with the number of channels"


def test_groups_that_the_code_fixes() -> None:
    p = nn.Parameter
    _, spaces = net(
        lambda m, x: F.conv2d(m.one(x), m.w, groups=6), 6, one=nn.Conv2d(4, 6, 1), w=p(torch.empty(6, 1, 3, 3))
    )
    assert "has a number of groups that is fixed in the model's code" in str(spaces[1].undroppable)
    model, spaces = net(
        lambda m, x: F.conv2d(y := m.one(x), m.w, groups=y.shape[1]),
        6,
        one=nn.Conv2d(4, 6, 1),
        w=p(torch.empty(6, 1, 3, 3)),
    )
    drop_is_exact(model, spaces[1], [0])


# ---- questions and edits -------------------------------------------------------------------------------------------


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
    (lambda m, s: s[1].why_not(9), "space 1 can be left with 1 to 6 channels; got 9"),
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
