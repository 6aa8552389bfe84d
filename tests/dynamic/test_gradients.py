"""The gradient of joint training is the sum of the subnets' gradients, nothing outside them gets any, and soft targets
carry none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import precut
from dynamic.oracle import images, keeps, masked_run, prepared, supernet
from precut.dynamic import DynamicNet, JointObjective, Point

X = images(6, 16)
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])
STATE = SimpleNamespace(
    fabric=SimpleNamespace(world_size=1, backward=lambda loss: loss.backward()),
    recipe=SimpleNamespace(label_smoothing=0.1),
    step=0,
)


def network(name: str = "resnet8", support: str = "dense", norms: str = "private_stats") -> DynamicNet:
    dyn = prepared(precut.sparsify(precut.create_model(name, width_mult=0.5), support), X, norms=norms)
    half = dyn.point(0.5, skip=list(dyn.space.blocks)[-1:])
    dyn.prepare([dyn.full, half, dyn.point(0.25, align=1, skip=half.skipped)])
    return dyn.train()


def joint(dyn: DynamicNet, **options: object) -> dict[str, torch.Tensor]:
    dyn.zero_grad()
    JointObjective(dyn, None, **options).backward(STATE, dyn, X, LABELS, 10)  # type: ignore[arg-type]
    return {name: p.grad.clone() for name, p in dyn.model.named_parameters() if p.grad is not None}


def alone(
    dyn: DynamicNet, point: Point, soft: torch.Tensor | None = None, share: float = 0.0
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients by the whole network's weights, from the whole network with the rest set to zero."""
    model = supernet(dyn, point).train()
    logits = masked_run(dyn, point, model, X)
    loss = functional.cross_entropy(logits, LABELS, label_smoothing=0.1)
    if soft is not None:
        loss = (1 - share) * loss + share * -(soft * logits.log_softmax(1)).sum(1).mean()
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, logits.detach()


@pytest.mark.parametrize("support", ["dense", "PSD4_P8", "pSC4"])
@pytest.mark.parametrize("name", ["resnet8", "resnet20", "mobilenetv2", "speednet"])
def test_the_joint_gradient_is_the_weighted_sum(name: str, support: str) -> None:
    dyn = network(name, support)
    weights = [1.0, 0.5, 2.0]
    found = joint(dyn, weights=weights)
    parts = [alone(dyn, point)[0] for point in dyn.points]
    for key, grad in found.items():
        want = sum(w * part[key] for w, part in zip(weights, parts, strict=True) if key in part)
        scale = max(1.0, want.abs().max().item())  # type: ignore[union-attr]
        assert (grad - want).abs().max() <= 1e-10 * scale, key


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_soft_targets_carry_no_gradient(share: float) -> None:
    dyn = network()
    found = joint(dyn, distill=share)
    first, logits = alone(dyn, dyn.full)
    soft = logits.softmax(1)  # a constant
    parts = [first, *(alone(dyn, point, soft, share)[0] for point in dyn.points[1:])]
    for key, grad in found.items():
        want = sum(part[key] for part in parts if key in part)
        assert (grad - want).abs().max() <= 1e-10, key  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "shufflenetv2", "wide_resnet16_4", "vgg11"])
def test_channels_outside_a_subnet_get_exactly_none(name: str) -> None:
    dyn = prepared(precut.create_model(name, width_mult=0.25), images(4, 32)).train()
    point = dyn.point(0.5, skip=list(dyn.space.blocks)[:1])
    dyn.set_point(point)
    functional.cross_entropy(dyn(images(4, 32)), LABELS[:4]).backward()
    kept = {}
    for node in dyn.graph.nodes:
        found = keeps(dyn.space, point, node.output)
        kept[node.name] = found[1] if found is not None else None
    outside = inside = 0
    for node in dyn.graph.layers():
        grad = dyn.model.get_submodule(node.path).weight.grad
        rows = kept[node.name]
        source = keeps(dyn.space, point, node.input)
        if any(node.path.startswith(block) for block in point.skipped):
            assert grad is None or not grad.any()
            continue
        assert grad is not None
        there = torch.ones_like(grad, dtype=torch.bool)
        if rows is not None:
            there &= rows.reshape(-1, *[1] * (grad.ndim - 1))
        if source is not None and grad.shape[1] == len(source[1]):
            there &= source[1].reshape(1, -1, *[1] * (grad.ndim - 2))
        assert not grad[~there].any()
        outside += int((~there).sum())
        inside += int((grad[there] != 0).sum())
    assert outside > 0
    assert inside > 0


def test_balance_divides_by_the_holders() -> None:
    dyn = network()
    weights = [1.0, 3.0, 0.5]
    summed, mean = joint(dyn, weights=weights), joint(dyn, weights=weights, balance="mean")
    for node in dyn.graph.layers():
        key = f"{node.path}.weight"
        held = torch.zeros_like(summed[key])
        for weight, point in zip(weights, dyn.points, strict=True):
            if any(node.path.startswith(block) for block in point.skipped):
                continue
            rows, columns = (keeps(dyn.space, point, value) for value in (node.output, node.input))
            assert rows is not None
            assert columns is not None
            there = rows[1].double()[:, None] * columns[1].double()[None, :]
            held += weight * there.reshape(*there.shape, *[1] * (held.ndim - 2))
        assert held.min() == 1.0  # the full network holds everything
        assert torch.allclose(mean[key], summed[key] / held, atol=1e-14, rtol=1e-12), key


def test_a_sandwich_draws_the_ends_and_others_by_seed_and_step() -> None:
    dyn = prepared(precut.create_model("resnet8"), X)
    dyn.ladder([1, 0.8, 0.6, 0.5, 0.4, 0.3], align=1)
    objective = JointObjective(dyn, None, mode="sandwich", sampled=2, seed=3)
    drawn = [objective.drawn(step) for step in range(200)]
    assert all(one[0] == 0 and one[-1] == 5 and len(set(one)) == 4 for one in drawn)
    assert {number for one in drawn for number in one} == set(range(6))
    assert drawn == [JointObjective(dyn, None, mode="sandwich", sampled=2, seed=3).drawn(step) for step in range(200)]
    assert drawn != [JointObjective(dyn, None, mode="sandwich", sampled=2, seed=4).drawn(step) for step in range(200)]


def test_private_parameters_get_the_gradients_of_their_point_alone() -> None:
    dyn = network(norms="private")
    small = dyn.points[-1]
    dyn.set_point(small)
    functional.cross_entropy(dyn(X), LABELS).backward()
    norms = [module for module in dyn.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(module.weight.grad is None for module in norms)
    own = [t for name, t in dyn.own_tensors(small).items() if name.endswith("weight")]
    assert own
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in own)
