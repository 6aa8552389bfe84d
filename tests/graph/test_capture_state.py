"""Writes in place, what a capture leaves behind (nothing), and other people's code."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.calls import Call, X, captured
from precut.errors import PrecutError
from precut.graph import capture

P = torch.nn.Parameter


def test_writes_in_place_are_followed() -> None:
    def forward(module: nn.Module, x: Tensor) -> Tensor:
        x.mul_(2)
        y = x[:, :2].clone()
        y[:, 0] = 1.0
        z = y.view(-1)
        F.relu(z, inplace=True)
        module.act(x)
        x += 1
        return x.sum() + z.sum()

    x = X.clone()
    graph = captured(forward, x, act=nn.ReLU(inplace=True))
    assert torch.equal(x, X)
    assert "torch.__setitem__" in [node.op for node in graph.nodes]


def test_halves_that_do_not_overlap_may_be_written_apart() -> None:
    def forward(module: nn.Module, x: Tensor) -> Tensor:
        a, b = (x * 1).chunk(2, 1)
        a.relu_()
        return a + b

    captured(forward)


# ---- what is left behind ---------------------------------------------------------------------------------------------


def _state(model: nn.Module) -> Any:
    return [
        (name, module.training, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.calls = self.calls * 2
        x = self.drop(self.norm(x)) + torch.rand_like(x)
        if self.fail:
            raise RuntimeError("stop")
        return x


@pytest.mark.parametrize("training", [False, True, None])
@pytest.mark.parametrize("fail", [False, True])
def test_nothing_is_left_behind(training: bool | None, fail: bool) -> None:
    model = Noisy()
    model.drop.eval()
    model.fail = fail
    model.norm.forward = model.norm.forward  # type: ignore[method-assign]  # somebody's own
    before, own = _state(model), vars(model.norm)["forward"]
    tensors = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    random_state = torch.get_rng_state()
    if fail:
        with pytest.raises(PrecutError, match="RuntimeError: stop"):
            capture(model, X, training=training)
    else:
        capture(model, X, training=training)
    assert _state(model) == before
    assert vars(model.norm)["forward"] is own
    assert torch.equal(torch.get_rng_state(), random_state)
    after = model.state_dict(keep_vars=True)
    for name, (tensor, copy) in tensors.items():
        assert after[name] is tensor
        assert torch.equal(tensor, copy)


def test_modes() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(4))
    assert capture(model, X).nodes[0].attrs["training"] is False
    assert capture(model, X, training=True).nodes[0].attrs["training"] is True
    model[0].eval()
    graph = capture(model, X, training=None)
    assert graph.nodes[0].attrs["training"] is False
    assert [module.training for module in model] == [False, True]


def test_gradients_are_not_recorded_and_run_records_them() -> None:
    model = nn.Conv2d(4, 2, 1)
    graph = capture(model, X)
    graph.run(X).sum().backward()
    assert model.weight.grad is not None


def test_another_thread_may_run_the_model_meanwhile() -> None:
    inside, done = threading.Event(), threading.Event()
    results: list[Tensor] = []

    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread() is threading.main_thread():
                inside.set()
                done.wait(5)
            return self.conv(x)

    model = Waiting()

    def other() -> None:
        inside.wait(5)
        with torch.no_grad():
            results.append(model(X))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    graph = capture(model, X)
    thread.join()
    assert [node.op for node in graph.nodes] == ["conv2d"]
    with torch.no_grad():
        assert torch.equal(results[0], model(X))


# ---- other people's code ---------------------------------------------------------------------------------------------


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


def scale(x: Tensor) -> Tensor:
    return x * 2 + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_functions_that_hide_their_operations() -> None:
    captured(lambda m, x: Double.apply(x) + 1)
    captured(lambda m, x: torch.jit.script(scale)(x) - 1)
    captured(lambda m, x: m.inner(x) - 1, inner=torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())))
    captured(lambda m, x: torch.utils.checkpoint.checkpoint(torch.relu, x, use_reentrant=False))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_recurrent_and_attention_modules_run() -> None:
    captured(lambda m, x: m.lstm(x.flatten(2))[0], lstm=nn.LSTM(36, 5, batch_first=True))
    captured(lambda m, x: m.gru(x.flatten(2))[0], gru=nn.GRU(36, 5, batch_first=True))
    captured(
        lambda m, x: m.mha(x.flatten(2), x.flatten(2), x.flatten(2))[0],
        mha=nn.MultiheadAttention(36, 4, batch_first=True),
    )
    captured(lambda m, x: m.emb((x > 0).long()), emb=nn.Embedding(2, 3))


def test_hooks_run_once_and_what_they_compute_is_recorded() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    calls: list[int] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        calls.append(1)
        return output * 2

    model[0].register_forward_hook(hook)
    graph = capture(model, X)
    assert [node.op for node in graph.nodes] == ["conv2d", "mul", "relu"]
    assert len(calls) == 1
    graph.verify()


def test_computed_weights_run() -> None:
    model = nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        torch.nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)),
    )
    torch.nn.utils.prune.random_unstructured(pruned := nn.Conv2d(4, 4, 1), "weight", 0.5)
    model.append(pruned)
    graph = capture(model, X)
    graph.verify()
    assert [node.op for node in graph.layers()] == ["conv2d", "conv2d", "conv2d"]


def test_run_on_another_model_takes_its_parameters() -> None:
    first, second = nn.Sequential(nn.Conv2d(4, 2, 1)), nn.Sequential(nn.Conv2d(4, 2, 1))
    graph = capture(first, X)
    assert torch.equal(graph.run(X, model=second), second(X))
    functional = Call(lambda m, x: x * m.w, w=P(torch.ones(4, 1, 1)))
    graph = capture(functional, X)
    other = Call(functional.function, w=P(torch.full((4, 1, 1), 3.0)))
    assert torch.equal(graph.run(X, model=other), X * 3)


def test_inference_mode_compiled_and_meta_models() -> None:
    model = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
    with torch.inference_mode():
        made = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True))
        graph = capture(made, X.clone())
        graph.verify()
    assert [node.op for node in graph.nodes] == ["conv2d", "relu"]
    assert [node.name for node in capture(torch.compile(model, backend="eager"), X).nodes] == ["0", "1", "2"]
    assert capture(model.to("meta"), X.to("meta")).outputs[0].shape == (2, 2, 6, 6)


def test_a_model_that_is_a_leaf_or_does_nothing() -> None:
    assert [node.name for node in capture(nn.Linear(6, 2), X).nodes] == ["linear"]
    graph = capture(nn.Sequential(), X)
    assert graph.nodes == []
    assert graph.outputs == graph.inputs
    assert len(graph.spaces) == 1
    graph.verify()
