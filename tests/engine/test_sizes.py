"""Compiled networks at other sizes than the example's: as torch does it, or told; never something else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from engine.nets import Net, compiled
from precut import runtime
from precut.graph import leaves

pytestmark = pytest.mark.skipif(not runtime.available(), reason="the native library was not built")

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
OTHERS = [(5, 3, 16, 16), (2, 3, 32, 32), (3, 3, 24, 20), (1, 3, 1, 1)]


def other(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def same(model: nn.Module, have: Any, x: Tensor) -> None:
    with torch.no_grad():
        want = model(x)
    for one, two in zip(leaves(want), leaves(have), strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
        else:
            assert one == two


FOLLOW: dict[str, Callable[[Any, Tensor], Any]] = {
    "size in the result": lambda m, x: (m.c(x), x.shape[0]),
    "computed size": lambda m, x: {"y": F.relu(m.c(x)), "n": m.c(x).shape[2] * 2},
    "parameter in the result": lambda m, x: (m.c(x), m.c.bias),
    "flatten": lambda m, x: m.c(x).flatten(1),
    "flatten, then more": lambda m, x: F.relu(m.c(x).view(x.shape[0], -1)) * 2,
    "flatten of a part": lambda m, x: m.c(x)[:, 1:].flatten(1).relu(),
    "flatten a fixed map": lambda m, x: F.adaptive_avg_pool2d(m.c(x), (2, 2)).flatten(1).relu(),
    "rows and columns in numbers": lambda m, x: (
        m.c(x).view(-1, 2, 4, 16, 16).transpose(1, 2).reshape(-1, 8, 16, 16).relu()
    ),
    "rows for columns": lambda m, x: (
        m.c(x)
        .view(x.size(0), 2, 4, x.size(3), x.size(2))
        .transpose(1, 2)
        .reshape(x.size(0), 8, x.size(3), x.size(2))
        .relu()
    ),
    "shuffle": lambda m, x: (
        m.c(x).view(x.size(0), 2, 4, x.size(2), -1).transpose(1, 2).reshape(-1, 8, *x.shape[2:]).relu()
    ),
    "made tensors": lambda m, x: m.c(x) + torch.zeros(x.shape[0], 8, 1, 1) + torch.arange(x.shape[3]).float(),
}


@pytest.mark.parametrize("case", FOLLOW)
def test_what_follows_the_input(case: str) -> None:
    model = Net(FOLLOW[case]).eval()
    fast = compiled(model, X)
    for shape in [(2, 3, 16, 16), *OTHERS]:
        x = other(shape)
        try:
            with torch.no_grad():
                model(x)
        except RuntimeError:  # a view that fits no other size
            with pytest.raises(precut.PrecutError, match="the network does not take inputs of these sizes"):
                fast(x)
        else:
            same(model, fast(x), x)


FIXED: dict[str, Callable[[Any, Tensor], Any]] = {
    "size times a float": lambda m, x: F.interpolate(m.c(x), size=(int(x.shape[2] * 0.5), int(0.5 * x.shape[3]))),
    "stack over a range": lambda m, x: torch.stack([m.c(x[i : i + 1]) for i in range(x.shape[0])]).sum((0, 2, 3, 4)),
    "loop without a shape": lambda m, x: sum(m.c(x[:1]) for _ in range(x.shape[0])),
    "repeated list": lambda m, x: torch.cat([m.c(x)] * x.shape[0], 1),
    "logarithm": lambda m, x: m.c(x) * math.log(x.shape[0]),
    "number in the result": lambda m, x: (m.c(x), list(range(x.shape[0]))),
}


@pytest.mark.parametrize("case", FIXED)
def test_what_code_reads_directly_is_told(case: str) -> None:
    model = Net(FIXED[case])
    fast = compiled(model, X)
    same(model, fast(X), X)
    for _ in range(2):
        with pytest.raises(precut.PrecutError, match=r"would do something else with inputs of these sizes"):
            fast(other((5, 3, 9, 11)))


def test_code_that_needs_numbers_is_not_asked() -> None:
    """It cannot run without them, whatever the sizes."""
    model = Net(lambda m, x: m.c(x) * m.scale.item(), scale=torch.tensor(2.0))
    fast = compiled(model, X)
    for shape in OTHERS:
        same(model, fast(other(shape)), other(shape))


class Uncopied(nn.Conv2d):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot be copied")


@pytest.mark.parametrize("guarded", [False, True])
def test_a_model_that_cannot_be_copied(guarded: bool) -> None:
    model = Net(lambda m, x: m.d(x) if not guarded or x.shape[0] < 9 else x, d=Uncopied(3, 8, 1))
    fast = compiled(model, X)
    same(model, fast(X), X)
    if not guarded:
        same(model, fast(other((5, 3, 9, 9))), other((5, 3, 9, 9)))
    else:
        with pytest.raises(precut.PrecutError, match="cannot be copied to ask it"):
            fast(other((5, 3, 9, 9)))


@pytest.mark.parametrize("kind", [TypeError, AttributeError, KeyError, NotImplementedError])
def test_whatever_the_code_raises_at_a_size_is_told(kind: type[Exception]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if len(range(x.shape[2])) > 20:
            raise kind("too large")
        return m.c(x)

    with pytest.raises(
        precut.PrecutError, match=r"sizes, \(2, 3, 32, 32\); it was compiled for \(2, 3, 16, 16\): .*too l"
    ):
        compiled(Net(forward), X)(other((2, 3, 32, 32)))


HEADS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "chain": (lambda m, x: m.fc(F.dropout(F.relu(m.c(x).flatten(1)), training=False)), 2048),
    "two": (lambda m, x: m.fc(torch.cat([m.c(x).flatten(1), x.relu().flatten(1)], 1)), 2816),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_flattened_map_of_one_size_stays_native_for_its_linear_layer(case: str) -> None:
    forward, width = HEADS[case]
    model = Net(forward, fc=nn.Linear(width, 4))
    fast = compiled(model, X)
    assert "run in torch" not in str(fast.explain())
    for shape in [(5, 3, 16, 16), (2, 3, 8, 32)]:
        same(model, fast(other(shape)), other(shape))
    with pytest.raises(precut.PrecutError, match="the network does not take inputs of these sizes"):
        fast(other((2, 3, 24, 20)))


def test_a_flattened_map_that_is_also_a_result_follows() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.c(x).flatten(1)
        return y, m.fc(y[:, :16])

    model = Net(forward, fc=nn.Linear(16, 4))
    fast = compiled(model, X)
    for shape in OTHERS[:3]:
        same(model, fast(other(shape)), other(shape))
