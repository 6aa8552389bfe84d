"""Nested inputs and outputs, sizes that follow the inputs, and what a graph tells of itself."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from graph.calls import Call, X, captured
from precut.graph import capture

P = torch.nn.Parameter


@dataclasses.dataclass
class Record:
    first: Tensor
    rest: list[Tensor]
    note: str


Pair = namedtuple("Pair", "a b")


def test_nested_inputs_and_outputs() -> None:
    def forward(module: nn.Module, pair: Any, *, extra: dict[str, Any]) -> Any:
        a, b = pair
        record = Record(a + b, [extra["c"] * 2], "kept")
        return {"pair": Pair(a, b - 1), "ordered": OrderedDict(z=record), "number": 3}

    model = Call(forward)
    inputs = {"pair": (X, X + 1), "extra": {"c": X + 2, "d": 5}}
    graph = capture(model, {"pair": (X, X + 1), "extra": inputs["extra"]})

    class Kwargs(nn.Module):
        def forward(self, pair: Any, extra: Any) -> Any:
            return forward(self, pair, extra=extra)

    graph = capture(Kwargs(), inputs)
    graph.verify()
    assert [value.name for value in graph.inputs] == ["pair", "pair_1", "extra"]
    result = graph.run(X, X + 1, X + 2)
    assert isinstance(result["pair"], Pair)
    assert isinstance(result["ordered"], OrderedDict)
    assert result["ordered"]["z"].note == "kept"
    assert torch.equal(result["ordered"]["z"].rest[0], (X + 2) * 2)
    assert result["number"] == 3
    assert len(graph.outputs) == 4


def test_several_inputs_and_a_parameter_as_output() -> None:
    graph = captured(lambda m, x, y: (x * m.w, m.w), X, X, w=P(torch.ones(1)))
    assert len(graph.outputs) == 1
    assert torch.equal(graph.run(X, X)[1], torch.ones(1))


SIZED: list[Callable[..., Any]] = [
    lambda m, x: x.view(x.size(0), -1, x.shape[3] * x.shape[2]),
    lambda m, x: x.reshape(*x.shape[:2], x.size(dim=2) * x.size(3)),
    lambda m, x: x.view(x.shape[0], x.shape[1] // 2, 2, x.shape[2], -1).transpose(1, 2).reshape(x.shape),
    lambda m, x: torch.cat([x, torch.zeros(x.shape[0], 1, *x.shape[2:])], 1),
    lambda m, x: x[:, :, : x.shape[2] // 2 + 1, 1 - x.shape[3] :],
    lambda m, x: F.interpolate(F.max_pool2d(x, 2), size=x.shape[2:]),
    lambda m, x: x.new_ones(x.size()) + x,
    lambda m, x: x.mean(1).expand(x.shape[1], *x.shape[0:1], -1, -1),
    lambda m, x: F.adaptive_avg_pool2d(x, (x.shape[2] - 1, -(-x.shape[3] // 2))),
    lambda m, x: x * (x.shape[2] % 4) + x.numel() * 0,
    lambda m, x: torch.arange(x.shape[2]) + x,
]


@pytest.mark.parametrize("function", SIZED)
@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (5, 4, 6, 6), (1, 4, 8, 7)])
def test_sizes_that_come_from_shapes_follow_other_inputs(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    if shape[3] == 7 and "arange" in inspect.getsource(function):
        shape = (1, 4, 8, 8)
    capture(Call(function), X).verify(torch.randn(shape))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.sum(1) * int(x.shape[2]),
        lambda m, x: x.sum(1) if x.shape[2] < 7 else x,
        lambda m, x: x * x.shape[3] ** -0.5,
        lambda m, x: x * (x.size(2) / 2.5),
        lambda m, x: F.interpolate(x, size=(int(x.shape[2] * 0.5), int(0.5 * x.shape[3]))),
        lambda m, x: torch.cat([x] * x.shape[0], 1),
        lambda m, x: x * abs(x.shape[2] - 9),
        lambda m, x: x * (x.shape[2] - True) * math.floor(x.shape[3]),
        lambda m, x: x.view(len(x), -1),
        lambda m, x: x + 1 if x.shape == x[:, :, :6].shape else x,
    ],
)
def test_what_code_learned_from_sizes_is_fixed_and_said(function: Callable[..., Any]) -> None:
    graph = capture(Call(function), X)
    graph.verify()
    with pytest.raises(precut.PrecutError) as error:
        graph.run(torch.randn(3, 4, 7, 7))
    line = f"test_sizes.py:{function.__code__.co_firstlineno}"
    assert str(error.value) == (
        f"the model's code at {line} would do something else with inputs of these sizes than with the example's: "
        "capture it with inputs of these sizes"
    )


def test_other_sizes_that_lead_to_the_same_are_fine() -> None:
    graph = capture(Call(lambda m, x: x * 2 if x.shape[2] > 5 and x.shape[2] == x.size(-1) else x), X)
    graph.verify(torch.randn(3, 4, 9, 9))
    assert len(graph.guards) == 2


def test_sizes_are_plain_integers_in_every_other_respect() -> None:
    seen: list[Any] = []

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        seen.extend(
            [n, c * 2, 10 - h, w // 2, -w, x.size(1) == 4, f"{c}", {4: "four"}[c], list(range(n)), h / 2, c * 0.5]
        )
        return x

    capture(Call(forward), X)
    assert seen == [2, 8, 4, 3, -6, True, "4", "four", [0, 1], 3.0, 2.0]


def test_depth_layers_links_and_table() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x).relu())
            y += x
            return self.c(torch.cat([y, x], 1))

    graph = capture(Block(), X)
    assert graph.depth() == 3
    assert graph.depth(graph.node("a").output) == 1
    assert [node.name for node in graph.layers()] == ["a", "b", "c"]
    told = [(link.kind, link.layers, link.skips, link.long_range, link.channels) for link in graph.links()]
    assert told == [
        ("add", ("b",), 0, False, 4),
        ("add", ("x",), 2, True, 4),
        ("cat", ("b", "x"), 0, False, 4),
        ("cat", ("x",), 2, True, 4),
    ]
    lines = graph.table().splitlines()
    assert lines[0].split() == ["node", "op", "inputs", "shape", "source"]
    assert lines[1].split()[:4] == ["a", "conv2d", "x", "2x4x6x6"]
    assert len(lines) == 1 + len(graph.nodes)
    assert [node.name for node in graph.node("a").output.consumers] == ["relu"]
    assert graph.inputs[0].consumers[0].name == "a"
    assert repr(graph) == "Graph(Block, 6 nodes, 3 layers)"
    assert repr(graph.node("c")) == "Node('c': conv2d(cat) -> (2, 2, 6, 6))"
    assert repr(graph.inputs[0]) == "Value('x', (2, 4, 6, 6), float32)"


@pytest.mark.parametrize(
    ("name", "depth", "skips"), [("resnet20", 20, 9), ("resnet50", 50, 16), ("wide_resnet16_4", 14, 6)]
)
def test_published_depths(name: str, depth: int, skips: int) -> None:
    model = precut.create_model(name, width_mult=0.25)
    graph = capture(model, torch.randn(1, 3, 32, 32))
    assert graph.depth() == depth
    assert sum(link.long_range for link in graph.links()) == skips
