"""Which channels are coupled and may go, on small networks whose answer is known."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.nets import close, randomise_, without_inputs
from graph.small import Net, X, drop_is_exact, line, net, permutation_changes_nothing, told
from precut.graph import (
    capture,
    drop,
    restrict,
    take,
)


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
    assert one.undroppable == f"conv2d (grouped, {line(forward, 1)}) cannot divide 5 channels into 2 groups"
    assert not one.droppable
    both = take(model, {one: [0, 2], two: [1, 0]})
    assert both.grouped.weight.shape == (4, 2, 1, 1)
    assert close(both(X), without_inputs(copy.deepcopy(model), {("grouped", 1), ("grouped", 5)})(X))


def test_shuffles_and_halves() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        kept, changed = m.one(x).chunk(2, 1)
        return F.channel_shuffle(torch.cat([kept, m.two(changed)], 1), 2)

    model, spaces = net(forward, 8, one=nn.Conv2d(4, 8, 1), two=nn.Conv2d(4, 4, 1))
    assert told(spaces[1]) == {"one.out": [[0, 1, 2, 3]], "head.in": [[0, 2, 4, 6]]}
    assert told(spaces[2]) == {"one.out": [[4, 5, 6, 7]], "two.in": [[0, 1, 2, 3]]}
    assert told(spaces[3]) == {"two.out": [[0, 1, 2, 3]], "head.in": [[1, 3, 5, 7]]}
    where = line(forward, 1)
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
