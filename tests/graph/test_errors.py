"""What cannot be captured says so, with the operation and the line; wrong arguments likewise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from precut.errors import PrecutError
from precut.graph import capture, take_channels_

X = torch.randn(2, 4, 6, 6)


class Call(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(4, 4, 1)
        self.register_buffer("table", torch.arange(4))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


DATA: list[tuple[str, Callable[..., Any]]] = [
    ("bool", lambda m, x: x if x.sum() > 0 else -x),
    ("bool", lambda m, x: x if m.conv(x).max() > 0 and True else -x),
    ("item", lambda m, x: x * x.max().item()),
    ("tolist", lambda m, x: x * x[0, 0, 0].tolist()[0]),
    ("numpy", lambda m, x: x * x.numpy().max()),
    ("numpy", lambda m, x: x * float(np.asarray(x).max())),
    ("int", lambda m, x: x[: int(x[0, 0, 0, 0])]),
    ("float", lambda m, x: x * float(x.max())),
    ("index", lambda m, x: [x, x][x[0, 0, 0, 0].long()]),
    ("equal", lambda m, x: x if torch.equal(x, x) else -x),
    ("allclose", lambda m, x: x if torch.allclose(x, x) else -x),
    ("contains", lambda m, x: x if 3.0 in x else -x),
]


@pytest.mark.parametrize(("word", "function"), DATA)
def test_programs_that_depend_on_values(word: str, function: Callable[..., Any]) -> None:
    with pytest.raises(PrecutError) as error:
        capture(Call(function), X)
    assert str(error.value) == (
        f"{word}() of a tensor at test_errors.py:{function.__code__.co_firstlineno} cannot be captured: the program "
        "would depend on the input's values; a capture follows one path for all inputs"
    )


def test_values_of_parameters_and_buffers_may_decide() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if m.table.sum() > 3:
            x = x * m.table[1].item()
        return x + torch.tensor([1.0, 2.0]).max().item()

    capture(Call(forward), X).verify()


def through_a_view(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    half = y[:, :2]
    half.add_(1)
    return y + 1


def through_the_whole(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    half = y[:, :2]
    y.relu_()
    return m.conv(y)[:, :2] - half


def through_part_of_a_step(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0] += 1
    return y


def returned(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.view(-1).zero_()
    return y


@pytest.mark.parametrize(
    ("function", "reads", "line", "writes", "at"),
    [
        (through_a_view, "add", 4, "add", 3),
        (through_the_whole, "sub", 4, "relu", 3),
        (through_part_of_a_step, "torch.__setitem__", 2, "add", 2),
        (returned, None, 0, "zero", 2),
    ],
)
def test_writes_through_another_tensor(
    function: Callable[..., Any], reads: str | None, line: int, writes: str, at: int
) -> None:
    first = function.__code__.co_firstlineno
    reader = f"{reads} at test_errors.py:{first + line}" if reads else "the model's result"
    with pytest.raises(PrecutError) as error:
        capture(Call(function), X)
    assert str(error.value) == (
        f"{reader} reads a tensor that {writes} at test_errors.py:{first + at} overwrote in place through another "
        "tensor of the same memory: write out of place, or take the view after the write"
    )


def test_writes_into_parameters() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.conv.weight.mul_(1.0)
        return m.conv(x)

    with pytest.raises(PrecutError) as error:
        capture(Call(forward), X)
    line = forward.__code__.co_firstlineno + 1
    assert str(error.value) == (
        f"mul at test_errors.py:{line} writes into parameter 'conv.weight': a capture cannot follow that"
    )


EXAMPLE = (
    "example_inputs must be a tensor, a tuple of arguments or a dict of keyword arguments with at least one tensor; "
    "got "
)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(3)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (
            nn.ReLU,
            X,
            "capture takes an nn.Module; got type <class 'torch.nn.modules.activation.ReLU'>: pass an instance, "
            "ReLU(...)",
        ),
        (3, X, "capture takes an nn.Module; got int 3"),
        (nn.ReLU(), (1, 3, 32, 32), EXAMPLE + "tuple (1, 3, 32, 32): pass torch.zeros(1, 3, 32, 32)"),
        (nn.ReLU(), None, EXAMPLE + "NoneType None"),
        (nn.ReLU(), [], EXAMPLE + "list []"),
        (Lazy(), X, "parameter 'fc.weight' has no shape yet (a lazy layer): run the model once, then capture it"),
    ],
)  # fmt: skip
def test_wrong_arguments(model: Any, inputs: Any, message: str) -> None:
    with pytest.raises(PrecutError) as error:
        capture(model, inputs)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(2, 4, 8, 8), r"shape \(2, 4, 8, 8\) float32: RuntimeError: .* expected input"),
        (torch.zeros(2, 3, 8, 8).double(), r"shape \(2, 3, 8, 8\) float64: RuntimeError: .*"),
        ({"y": torch.zeros(1)}, r"shape \(1,\) float32: TypeError: .* unexpected keyword argument 'y'"),
    ],
)
def test_examples_that_the_model_does_not_take(example: Any, message: str) -> None:
    with pytest.raises(PrecutError, match=f"^Conv2d cannot run on example_inputs of {message}") as error:
        capture(nn.Conv2d(3, 4, 1), example)
    assert isinstance(error.value.__cause__, (RuntimeError, TypeError))


def test_run_wants_the_tensors_that_were_captured() -> None:
    graph = capture(nn.ReLU(), X)
    with pytest.raises(PrecutError) as error:
        graph.run(X, X)
    assert str(error.value) == "the graph takes 1 tensors (input); got 2"


def test_verify_tells_what_a_capture_cannot_see() -> None:
    graph = capture(Call(lambda m, x: x + next(counter)), X)
    with pytest.raises(PrecutError) as error:
        graph.verify()
    assert str(error.value) == (
        "the graph's output 0 differs from the model's by up to 1: the model depends on something that a capture "
        "cannot see (its own random numbers, or values fixed at capture)"
    )


counter = iter(range(1, 100))


@pytest.mark.parametrize(
    ("module", "axis", "message"),
    [
        (nn.Conv2d(4, 4, 1), "param", "unknown axis of Conv2d 'param': choose one of 'in', 'out'"),
        (nn.BatchNorm2d(4), "out", "unknown axis of BatchNorm2d 'out': choose one of 'param'"),
        (nn.ReLU(), "out", "no adapter takes the channels of a ReLU"),
    ],
)
def test_wrong_uses_of_adapters(module: nn.Module, axis: str, message: str) -> None:
    with pytest.raises(PrecutError) as error:
        take_channels_(module, axis, torch.tensor([0]))
    assert str(error.value) == message
