"""Missing weights stay missing, whatever trains the others; and their optimiser state does not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from layers.twins import twin_of
from precut.layers import SparseConv2d, SparseLinear, sparsify
from precut.supports import Unstructured
from supports.examples import random_mask

SUPPORTS = ["PSD4_P8", Unstructured(random_mask((12, 8, 3, 3)))]

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=5),
}


def network(support: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        SparseConv2d(8, 12, 3, padding=1, support=support),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        SparseLinear(12, 4, support="2:4"),
    )


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int = 8) -> list[float]:
    torch.manual_seed(1)
    x, y = torch.randn(16, 3, 6, 6).to(next(model.parameters()).dtype), torch.randint(4, (16,))
    losses: list[float] = []

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(steps):
        optimiser.step(closure)  # type: ignore[arg-type]
    return losses


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_missing_weights_stay_missing(name: str, support: Any) -> None:
    model = network(support)
    layer: Any = model[2]
    before = layer.weight.detach().clone()
    losses = train(model, OPTIMISERS[name](model.parameters()))
    assert losses[-1] < losses[0]
    assert not torch.equal(layer.weight, before)
    for module in (model[2], model[5]):
        dense = module.dense_weight()
        assert not dense[~module.support.mask()].any()
        assert dense[module.support.mask()].ne(0).all()


# In float64: optimisers that divide by a gradient's size make much of float32's last bits. SGD in float32 too.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("sgd", torch.float32), *((name, torch.float64) for name in ("sgd", "adamw", "adam", "rmsprop"))],
)
@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_training_is_that_of_a_masked_dense_network(name: str, dtype: torch.dtype, support: Any) -> None:
    """Step by step the same as a dense layer whose weights and gradients are masked after every backward."""
    model = network(support).to(dtype)
    masked = network(support).to(dtype)
    for number, module in enumerate(model):
        if isinstance(module, (SparseConv2d, SparseLinear)):
            masked[number] = twin_of(module)
            masked[number].weight.register_hook(module.support.mask().to(dtype).mul)
    ours = train(model, OPTIMISERS[name](model.parameters()))
    theirs = train(masked, OPTIMISERS[name](masked.parameters()))
    assert ours == pytest.approx(theirs, rel=1e-4 if dtype == torch.float32 else 1e-9)
    layer: Any = model[2]
    close = {"rtol": 1e-3, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-10}
    torch.testing.assert_close(layer.dense_weight(), masked[2].weight, **close)


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_parameters_and_optimiser_state_are_as_small_as_the_support(support: Any) -> None:
    model = network(support)
    layer: Any = model[2]
    mask = layer.support.mask()
    assert sum(p.numel() for p in layer.parameters()) == int(mask.sum()) + 12
    assert torch.nn.utils.parameters_to_vector(layer.parameters()).numel() == int(mask.sum()) + 12
    for name, entries in (("sgd", 1), ("adamw", 2)):
        optimiser = OPTIMISERS[name](layer.parameters())
        layer(torch.randn(1, 8, 4, 4)).sum().backward()
        optimiser.step()
        state = [v for s in optimiser.state.values() for v in s.values() if isinstance(v, torch.Tensor) and v.ndim]
        assert sum(v.numel() for v in state) == entries * (int(mask.sum()) + 12)


def test_hand_made_updates_cannot_revive_anything() -> None:
    model = network("PSD1_P8")
    layer: Any = model[2]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
            parameter.copy_(torch.ones_like(parameter))
        layer.weight.data = torch.full_like(layer.weight, 3.0)
        layer.dense_weight().fill_(9)  # a copy
        vector = torch.nn.utils.parameters_to_vector(layer.parameters())
        torch.nn.utils.vector_to_parameters(vector * 2, layer.parameters())
    dense = layer.dense_weight()
    assert torch.equal(dense, 6.0 * layer.support.mask())


def test_torchs_muon_works() -> None:
    """An orthogonalised update needs two-dimensional weights: (out, weights per filter) is one."""
    model = network("PSD4_P8")
    matrices = [p for p in model.parameters() if p.ndim == 2]
    assert [tuple(p.shape) for p in matrices] == [(12, 37), (4, 6)]
    layer: Any = model[2]
    before = layer.weight.detach().clone()
    losses = train(model, torch.optim.Muon(matrices, lr=0.05, weight_decay=0.1), steps=15)
    assert losses[-1] < losses[0]
    # The update is near orthogonal: all singular values of one step alike, as no other optimiser has it.
    single = network("PSD4_P8")
    train(single, torch.optim.Muon([single[2].weight], lr=1.0, momentum=0.0, weight_decay=0.0), steps=1)
    values = torch.linalg.svdvals(before - single[2].weight.detach())
    assert values.max() < 2.5 * values[: len(values) // 2].min()
    assert not layer.dense_weight()[~layer.support.mask()].any()


def test_a_layer_wise_group_by_dimension_finds_the_weights() -> None:
    """timm-style groups: vectors (biases, norms) without decay, everything else with it."""
    model = sparsify(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)), "PS4_P4")
    decay = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert decay == {"0.weight", "2.weight"}


def test_frozen_weights_stay_frozen() -> None:
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    dense[1].weight.requires_grad_(False)
    model = sparsify(dense, "PS4_P4")
    layer: Any = model[1]
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad
    model(torch.randn(1, 3, 6, 6)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    layer.take_channels_("out", torch.arange(4))
    assert not layer.weight.requires_grad


def test_gradients_can_be_clipped_accumulated_and_scaled() -> None:
    model = network("PSD4_P8")
    layer: Any = model[2]
    x = torch.randn(2, 3, 6, 6)
    model(x).sum().backward()
    once = layer.weight.grad.clone()
    model(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, 2 * once)
    norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
    assert norm > 0.1
    assert torch.nn.utils.get_total_norm([p.grad for p in layer.parameters()]) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_under_lightning_fabric(precision: Any) -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    module = network(SUPPORTS[1])
    model, optimiser = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9))
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        x = torch.ones(2, 3, 6, 6, dtype=next(model.parameters()).dtype)
        loss = nn.functional.cross_entropy(model(x), torch.tensor([0, 1]))
        fabric.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    layer: Any = module[2]
    assert losses[-1] < losses[0]
    assert layer.support_index.dtype is torch.int32
    assert not layer.dense_weight()[~layer.support.mask()].any()
