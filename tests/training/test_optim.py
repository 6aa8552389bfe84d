import math

import pytest
import torch
from torch import nn

from precut import supports
from precut.errors import PrecutError
from precut.layers import SparseConv2d, sparsify
from precut.training import Recipe, load_recipe, param_groups
from precut.training._muon import Muon, orthogonalise
from precut.training._optim import build_optimizer, lr_factor, set_rates
from training.toy import toy_model


def test_weights_decay_and_vectors_do_not() -> None:
    model = toy_model()
    decayed, rest = param_groups(model, 0.01)
    assert decayed["weight_decay"] == 0.01
    assert rest["weight_decay"] == 0.0
    assert param_groups(model)[0]["weight_decay"] == 5e-4
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight), id(model[6].weight)]
    assert [id(p) for p in rest["params"]] == [id(p) for p in (model[0].bias, *model[1].parameters(), model[6].bias)]


@pytest.mark.parametrize("name", ["PSD4_P8", "pSC2", "unstructured"])
def test_compact_weights_decay(name: str) -> None:
    mask = torch.rand(16, 16, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    maker = supports.Unstructured(mask) if name == "unstructured" else supports.parse(name)
    layer = SparseConv2d(16, 16, 3, support=maker)
    decayed, rest = param_groups(layer, 0.01)
    assert decayed["params"] == [layer.weight]
    assert rest["params"] == [layer.bias]


def test_frozen_and_shared_parameters() -> None:
    first = nn.Linear(4, 4)
    model = nn.Sequential(first, first, nn.Linear(4, 4))
    model[2].requires_grad_(False)
    groups = param_groups(model, 0.1)
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(first.weight)], [id(first.bias)]]
    model[0].bias.requires_grad_(False)
    assert len(param_groups(model, 0.1)) == 1


def test_param_groups_train_with_torch() -> None:
    """A weight without a gradient only decays; a bias without one stays."""
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = torch.optim.SGD(param_groups(layer, 0.5), lr=0.1)
    layer(torch.zeros(1, 3)).sum().mul(0).backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias, before[1])


def test_wrong_uses() -> None:
    with pytest.raises(PrecutError) as caught:
        param_groups(nn.Linear(2, 2), -1.0)
    assert str(caught.value) == "weight_decay=-1.0: expected a number of at least 0"
    with pytest.raises(PrecutError) as caught:
        param_groups(nn.ReLU(), 0.0)
    assert str(caught.value) == "ReLU has no parameter that requires a gradient: nothing to train"


def test_groups_follow_the_recipe() -> None:
    model = toy_model()
    optimizer = build_optimizer(model, Recipe(lr=0.1, weight_decay=0.01, bias_lr_scale=64))
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(by_parameter) == len(list(model.parameters()))
    assert by_parameter[id(model[1].bias)]["peak_lr"] == pytest.approx(6.4)  # the norm's bias alone
    assert by_parameter[id(model[0].bias)]["peak_lr"] == by_parameter[id(model[1].weight)]["peak_lr"] == 0.1
    assert by_parameter[id(model[0].weight)]["weight_decay"] == 0.01
    assert by_parameter[id(model[1].weight)]["weight_decay"] == 0
    everything = build_optimizer(model, Recipe(weight_decay=0.01, decay_all=True))
    assert {group["weight_decay"] for group in everything.param_groups} == {0.01}
    set_rates(optimizer, 0.5)
    assert by_parameter[id(model[1].bias)]["lr"] == pytest.approx(3.2)


def rates(steps: int, per_epoch: int, **fields: object) -> list[float]:
    recipe = Recipe().replace(**fields)
    return [lr_factor(recipe, step, steps, per_epoch) for step in range(steps)]


def test_one_cycle_is_two_lines() -> None:
    factors = rates(10, 5, schedule="one-cycle", warmup=0.2, initial_lr=0.1, final_lr=0.2)
    # middles of the ten steps: 0.05, 0.15 | 0.25, ... 0.95
    expected = [0.1 + 0.9 * 0.25, 0.1 + 0.9 * 0.75, *(1 - 0.8 * (p - 0.2) / 0.8 for p in torch.arange(0.25, 1, 0.1))]
    assert factors == pytest.approx([float(e) for e in expected])


def test_cosine_is_half_a_wave() -> None:
    factors = rates(8, 4, schedule="cosine", final_lr=0.1)
    assert factors == pytest.approx([0.1 + 0.9 * math.cos(math.pi * (s + 0.5) / 16) ** 2 for s in range(8)])


def test_multistep_falls_at_the_start_of_its_epochs() -> None:
    factors = rates(12, 3, schedule="multistep", milestones=[1, 3], gamma=0.5)
    assert factors == [1] * 3 + [0.5] * 6 + [0.25] * 3


def test_constant_after_warm_up() -> None:
    assert rates(4, 2, schedule="constant", warmup=0.5) == pytest.approx([0.25, 0.75, 1, 1])


def test_the_papers_schedule_by_a_loop_like_theirs() -> None:
    """Their loop calls scheduler.step() first thing in every epoch, on top of the constructor's own."""
    recipe = load_recipe("paper-cifar")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [40, 80, 100, 115, 130, 140], gamma=0.2)
    for epoch in range(150):
        optimizer.step()  # nothing has a gradient: only keeps torch from warning about the order
        scheduler.step()
        theirs = optimizer.param_groups[0]["lr"]
        for step in (0, 351):
            ours = recipe.lr * lr_factor(recipe, epoch * 352 + step, 150 * 352, 352)
            assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_orthogonalised_matrices(shape: tuple[int, int]) -> None:
    """Same singular vectors, singular values near 1: Newton-Schulz against the decomposition itself."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ result @ v.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4


def test_muon_is_sgd_for_vectors() -> None:
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([ours], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for _ in range(4):
        for parameter, optimizer in ((ours, muon), (theirs, sgd)):
            optimizer.zero_grad()
            (parameter**3).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_steps_matrices_by_orthogonal_ones() -> None:
    weight = nn.Parameter(torch.zeros(8, 2, 2, 2))
    muon = Muon([weight], lr=0.5, momentum=0.9, nesterov=False)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    muon.step()
    torch.testing.assert_close(weight.detach().flatten(1), -0.5 * orthogonalise(weight.grad.flatten(1)))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_optimisers_learn_with_sparse_weights(optimizer: str) -> None:
    torch.manual_seed(0)
    model = sparsify(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), supports.parse("PS4_P4"))
    built = build_optimizer(model, Recipe(optimizer=optimizer, lr=0.01))
    images = torch.randn(4, 3, 8, 8)
    losses = []
    for _ in range(10):
        built.zero_grad()
        loss = model(images).square().mean()
        loss.backward()
        built.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
