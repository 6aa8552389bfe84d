"""from_masks: real sparse layers in place of those that torch.nn.utils.prune only masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from precut.layers import SparseConv2d, SparseLayer, SparseLinear, from_masks


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, groups=2, bias=False),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


def check_same_outputs(made: nn.Module, model: nn.Module) -> None:
    x = torch.randn(4, 3, 9, 9)
    model.eval()
    made.eval()
    torch.testing.assert_close(made(x), model(x))


def test_outputs_and_masks_of_pruned_layers() -> None:
    model = net()
    prune.random_unstructured(model[0], "weight", amount=0.4)
    prune.l1_unstructured(model[3], "weight", amount=0.7)
    prune.ln_structured(model[6], "weight", amount=0.5, n=2, dim=0)
    made = from_masks(model)
    assert [type(module).__name__ for module in made] == [
        *("SparseConv2d", "BatchNorm2d", "ReLU", "SparseConv2d", "AdaptiveAvgPool2d", "Flatten", "SparseLinear")
    ]
    for number in (0, 3, 6):
        layer: Any = made[number]
        mask = model[number].weight_mask.bool()
        assert torch.equal(layer.support.mask(), mask)
        assert torch.equal(layer.dense_weight(), model[number].weight_orig * mask)
        assert layer.weight.numel() == int(mask.sum())
        assert layer.weight.is_leaf
    check_same_outputs(made, model)
    assert set(made.state_dict()) == set(net().state_dict())


def test_the_model_given_is_not_touched() -> None:
    model = net()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = from_masks(model)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
    assert set(model.state_dict()) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert prune.is_pruned(model)
    assert not prune.is_pruned(made)


def test_pruned_again_and_pruned_globally() -> None:
    model = net()
    prune.random_unstructured(model[0], "weight", amount=0.3)
    prune.random_unstructured(model[0], "weight", amount=0.3)
    prune.global_unstructured(
        [(model[0], "weight"), (model[0], "bias"), (model[3], "weight"), (model[6], "weight")],
        pruning_method=prune.L1Unstructured,
        amount=0.6,
    )
    made = from_masks(model)
    check_same_outputs(made, model)
    assert torch.equal(made[0].bias, model[0].bias_orig * model[0].bias_mask)
    assert isinstance(made[0].bias, nn.Parameter)


def test_a_mask_on_the_bias_alone() -> None:
    model = net()
    prune.random_unstructured(model[0], "bias", amount=4)
    made = from_masks(model)
    assert isinstance(made[0], SparseConv2d)
    assert made[0].support.density == 1
    assert int((made[0].bias == 0).sum()) == 4
    check_same_outputs(made, model)


def test_weights_trained_since_the_last_forward_count() -> None:
    """The hook computes ``weight`` before each forward; what it left there may be old."""
    model = net()
    prune.random_unstructured(model[0], "weight", amount=0.5)
    prune.random_unstructured(model[0], "bias", amount=0.5)
    with torch.no_grad():
        model[0].weight_orig.mul_(3)
        model[0].bias_orig.mul_(3)
    check_same_outputs(from_masks(model), model)


def test_given_masks() -> None:
    model = net()
    masks = {
        "0": torch.rand(8, 3, 3, 3) < 0.5,
        "6": (torch.rand(10, 48) < 0.3).float(),
    }
    made = from_masks(model, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_submodule(name).weight.mul_(mask)  # type: ignore[operator]
    check_same_outputs(made, model)
    assert isinstance(made[0], SparseConv2d)
    assert isinstance(made[6], SparseLinear)
    assert isinstance(made[3], nn.Conv2d)


def test_given_masks_come_before_those_in_the_model() -> None:
    model = net()
    prune.random_unstructured(model[0], "weight", amount=0.5)
    prune.random_unstructured(model[3], "weight", amount=0.5)
    mask = torch.zeros(8, 3, 3, 3)
    mask[:, 0] = 1
    made = from_masks(model, {"0": mask})
    assert torch.equal(made[0].dense_weight(), model[0].weight_orig * mask)
    assert torch.equal(made[3].support.mask(), model[3].weight_mask.bool())


def test_a_shared_layer_stays_shared() -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    prune.random_unstructured(shared, "weight", amount=0.5)
    made = from_masks(model)
    assert isinstance(made[0], SparseLinear)
    assert made[0] is made[2]
    x = torch.randn(3, 6)
    torch.testing.assert_close(made(x), model(x))


def test_a_single_layer() -> None:
    layer = nn.Linear(6, 4)
    prune.random_unstructured(layer, "weight", amount=0.5)
    made = from_masks(layer)
    assert isinstance(made, SparseLinear)
    x = torch.randn(3, 6)
    torch.testing.assert_close(made(x), layer(x))


def test_masks_that_keep_nothing_and_everything() -> None:
    model = net()
    made = from_masks(model, {"0": torch.zeros(8, 3, 3, 3), "3": torch.ones(12, 4, 3, 3)})
    assert made[0].weight.shape == (0, 1)
    assert made[3].weight.shape == (12, 36)
    assert made(torch.randn(2, 3, 9, 9)).shape == (2, 10)


def test_dtype_mode_and_frozen_weights_are_kept() -> None:
    model = net().double().eval()
    model[0].weight.requires_grad_(False)
    prune.random_unstructured(model[0], "weight", amount=0.5)
    layer: Any = from_masks(model)[0]
    assert isinstance(layer, SparseLayer)
    assert (layer.weight.dtype, layer.weight.requires_grad, layer.training) == (torch.float64, False, False)
    assert layer.bias.requires_grad


def test_masks_over_a_parametrized_weight() -> None:
    """Their value at the moment is what remains."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))
    mask = torch.rand(4, 6) < 0.5
    made = from_masks(model, {"0": mask})
    torch.testing.assert_close(made[0].dense_weight(), model[0].weight * mask)


@pytest.mark.parametrize("steps", [3])
def test_the_result_trains_and_stays_sparse(steps: int) -> None:
    model = net()
    prune.global_unstructured([(model[i], "weight") for i in (0, 3, 6)], prune.L1Unstructured, amount=0.8)
    made = from_masks(model)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        made(torch.randn(4, 3, 9, 9)).square().sum().backward()
        optimiser.step()
    for number in (0, 3, 6):
        assert not made[number].dense_weight()[~model[number].weight_mask.bool()].any()


class Readers(nn.Module):
    """Weights that torch.nn's own modules read, and one that this model's code does."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.block(x), self.head.weight, self.head.bias)


@pytest.mark.parametrize("torchs", [False, True])
def test_weights_that_other_code_reads(torchs: bool) -> None:
    torch.manual_seed(0)
    model = Readers().eval()
    names = ["block.self_attn.out_proj", "block.linear1", "block.linear2", "head"]
    masks = {name: torch.rand(model.get_submodule(name).weight.shape) < 0.5 for name in names}  # type: ignore[arg-type]
    x = torch.randn(2, 3, 8)
    if torchs:
        for name, mask in masks.items():
            prune.custom_from_mask(model.get_submodule(name), "weight", mask)
        prune.random_unstructured(model.head, "bias", amount=2)
        model(x)  # torch's pruning computes weights before the layer's own forward only
    made = from_masks(model, None if torchs else masks, x)
    if not torchs:
        with torch.no_grad():
            for name, mask in masks.items():
                model.get_submodule(name).weight.mul_(mask)  # type: ignore[operator]
    assert not prune.is_pruned(made)
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(made(x), model(x))
    with torch.no_grad():  # another path through torch's encoder layer
        torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-5)
    layer = from_masks(Readers(), {"head": masks["head"]}).head
    assert isinstance(layer, SparseLinear)  # without an example nothing tells
