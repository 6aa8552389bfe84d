"""What is not followed is frozen, with the operation and the line; what a model's code fixes is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.small import X, drop_is_exact, line, net, told
from precut.graph import (
    capture,
    restrict,
)
from precut.layers import SparseConv2d

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
    assert reason.format(line(function, 0)) in {space.frozen for space in spaces}
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

    for function in (scaled, checked):
        _, spaces = net(function, 6, one=nn.Conv2d(4, 6, 1))
        source = line(function, 2)
        assert spaces[1].undroppable == f"the model's code at {source} depends on the number of channels"
    assert spaces[1].why_not(5) is None  # the comparison comes out the same
    _, spaces = net(counted, 6, one=nn.Conv2d(4, 6, 1))
    source = line(counted, 2)
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
