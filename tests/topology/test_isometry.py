"""Isometry against the published code, against autograd's Jacobians, and the quadrature against exact values."""

from __future__ import annotations

import copy
import math
import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut import PrecutError, create_model
from precut.graph import capture
from precut.topology import isometry
from precut.topology._maps import AutogradMap, ScaledConv, ScaledLinear, StepsMap, make_map
from precut.topology._segments import segments
from precut.topology._spectrum import exact_spectrum, lanczos_spectrum
from topology.facts import REFERENCE, formula_inputs, formula_mlp


@pytest.mark.parametrize("row", REFERENCE["mlp"], ids=lambda row: f"{row['width']}-{row['depth']}-{row['tc']}")
def test_published_values(row: dict[str, Any]) -> None:
    """Mean and standard deviation of the published code's measure and of the corrected one, layer by layer."""
    model, x, known = formula_mlp(row), formula_inputs(row), row["ldi_formula_weights"]
    assert float(model(x).detach().sum()) == pytest.approx(row["formula_forward_sum"], rel=1e-5)
    official, correct = isometry(model, x, official=True), isometry(model, x)
    assert official.mean == pytest.approx(known["official_mean"], abs=1e-6)
    assert official.std == pytest.approx(known["official_std"], abs=1e-6)
    assert correct.mean == pytest.approx(known["correct_mean"], abs=1e-6)
    assert correct.std == pytest.approx(known["correct_std"], abs=1e-6)
    assert [layer.mean for layer in correct.layers] == pytest.approx(known["correct_per_layer_mean"], abs=1e-6)
    assert correct.error == 0
    assert len(correct.values) == sum(layer.count for layer in correct.layers)


# ---- exact maps against autograd -----------------------------------------------------------------------------------


def jacobian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """One sample's, (rows, columns)."""
    made = torch.autograd.functional.jacobian(function, point)
    return made.reshape(function(point).numel(), point.numel())


def sigma(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    return torch.linalg.svdvals(jacobian(function, point))


class Chain(nn.Module):
    """Concatenation, addition, pool and head: all kinds of segments, written down below as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.c = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.d, self.e = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(4, 3)

    def join(self, a: Tensor) -> Tensor:
        return self.b(F.elu(a))

    def narrow(self, cat: Tensor) -> Tensor:
        return F.silu(self.c(F.relu(self.norm(cat))))

    def block(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.e(F.relu(self.d(x))))

    def end(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.end(self.block(self.narrow(torch.cat([self.join(a), a], 1))))


def chain() -> tuple[Chain, Tensor]:
    torch.manual_seed(0)
    model = Chain().double().eval()
    for name, buffer in model.norm.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(6, dtype=torch.float64) + (0.5 if name == "running_var" else 0))
    return model, torch.randn(3, 2, 6, 6, dtype=torch.float64)


def test_layers_blocks_and_heads_are_the_maps_that_they_say() -> None:
    model, x = chain()
    parts: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        (model.a, lambda x: x),
        (model.join, model.a),
        (model.narrow, lambda x: torch.cat([model.join(model.a(x)), model.a(x)], 1)),
        (model.block, lambda x: model.narrow(torch.cat([model.join(model.a(x)), model.a(x)], 1))),
    ]
    found = isometry(model, x)
    assert [layer.name for layer in found.layers][:3] == ["a", "b", "c"]
    assert len(found.layers) == 5
    pooled = []
    for layer, (function, before) in zip(found.layers, parts, strict=False):
        expected = torch.cat([sigma(function, before(x[n : n + 1])) for n in range(3)])
        pooled.append(expected)
        assert layer.mean == pytest.approx(float(expected.mean()), rel=1e-9)
        assert layer.mean_square == pytest.approx(float(expected.square().mean()), rel=1e-9)
        assert layer.count == len(expected)
    pooled.append(torch.cat([sigma(model.end, model.block(parts[3][1](x[n : n + 1]))) for n in range(3)]))
    everything = torch.cat(pooled)
    assert found.mean == pytest.approx(float(everything.mean()), rel=1e-9)
    assert found.std == pytest.approx(float(everything.std()), rel=1e-9)
    torch.testing.assert_close(found.values.sort().values, everything.sort().values, rtol=1e-8, atol=1e-9)


def test_products_are_those_of_the_jacobian() -> None:
    """J v and J^T v of every kind of map, and J^T the transpose of J."""
    model, x = chain()
    graph = capture(model, x)
    values = graph.compute(graph.nodes, {graph.inputs[0].id: x.clone()})
    kinds = set()
    for segment in segments(graph):
        point = values[segment.reads.id]
        for map_ in (make_map(segment, graph, point), AutogradMap(segment, graph, point)):
            kinds.add(type(map_))
            u = torch.randn(2, 3, *map_.in_shape, dtype=torch.float64)
            v = torch.randn(2, 3, *map_.out_shape, dtype=torch.float64)
            forward, back = map_.forward(u), map_.transposed(v)
            for n in range(3):

                def run(z: Tensor, segment: Any = segment) -> Tensor:
                    return graph.compute(segment.nodes, {segment.reads.id: z})[segment.makes.id]

                whole = jacobian(run, point[n : n + 1])
                for p in range(2):
                    torch.testing.assert_close(forward[p, n].flatten(), whole @ u[p, n].flatten())
                    torch.testing.assert_close(back[p, n].flatten(), whole.T @ v[p, n].flatten())
                square = map_.square()
                if square is not None:
                    assert float(square[n]) == pytest.approx(float(whole.square().sum()))
    assert kinds == {ScaledConv, StepsMap, AutogradMap}
    linear = ScaledLinear(torch.randn(3, 4), torch.randn(2, 4), torch.randn(2, 3))
    assert torch.allclose(linear.square(), linear.matrices().square().sum((1, 2)))


@pytest.mark.parametrize("exact", ["stored", "gram"])
def test_large_matrices_by_their_gram_matrix(exact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model = create_model("random_densenet", widths=[4], depth=3, links=3, input_size=8)
    x = torch.randn(1, 3, 8, 8)
    expected = isometry(model, x)
    if exact == "gram":
        monkeypatch.setattr("precut.topology._spectrum._LARGEST_MATRIX", 0)
    found = isometry(model, x)
    assert found.mean == pytest.approx(expected.mean, rel=1e-5)


def test_sparse_layers_are_seen_as_dense_ones() -> None:
    torch.manual_seed(1)
    model = precut.sparsify(create_model("resnet8", width_mult=0.5), "PSD4_P8").eval()
    dense = create_model("resnet8", width_mult=0.5).eval()
    with torch.no_grad():
        for (_, held), (_, made) in zip(model.named_modules(), dense.named_modules(), strict=True):
            if hasattr(held, "dense_weight"):
                made.weight.copy_(held.dense_weight())
            elif isinstance(held, (nn.Linear, nn.BatchNorm2d, nn.Conv2d)):
                made.load_state_dict(held.state_dict())
    x = torch.randn(1, 3, 8, 8)
    assert isometry(model, x).mean == pytest.approx(isometry(dense, x).mean, rel=1e-6)


# ---- the quadrature ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depthwise", [False, True])
def test_quadrature_is_within_its_error_and_one_per_cent(depthwise: bool) -> None:
    torch.manual_seed(0)
    model = create_model("random_densenet", depth=3, widths=[6], links=5, depthwise=depthwise, input_size=9)
    x = torch.randn(2, 3, 9, 9)
    exact = isometry(model, x, batch_norm="batch")
    found = isometry(model, x, batch_norm="batch", exact_side=0)
    assert {layer.method for layer in exact.layers} == {"exact"}
    assert found.error > 0
    assert abs(found.mean - exact.mean) <= found.error
    assert abs(found.mean - exact.mean) <= 0.01 * exact.mean
    assert found.std == pytest.approx(exact.std, rel=0.02)
    assert float((found.values * found.weights).sum() / found.weights.sum()) == pytest.approx(found.mean, rel=0.05)


def test_known_spectra() -> None:
    """A multiple of the identity, a projection, and a hundredfold range: values that are known beforehand."""
    generator = torch.Generator().manual_seed(0)
    for diagonal in (torch.full((300,), 2.0), (torch.arange(300) < 100).float(), torch.logspace(-1, 1, 300)):
        map_ = ScaledLinear(torch.eye(300), diagonal[None], torch.ones(1, 300))
        found = lanczos_spectrum(map_, 1, generator, 0.002, 200, 64)
        assert found.mean == pytest.approx(float(diagonal.mean()), rel=0.004)
        assert abs(found.mean - float(diagonal.mean())) <= found.error + 1e-5
        assert found.mean_square == pytest.approx(float(diagonal.square().mean()), rel=1e-5)
        exact = exact_spectrum(map_, 1)
        assert exact.mean == pytest.approx(float(diagonal.mean()), rel=1e-6)


def test_errors_hold_as_often_as_they_say() -> None:
    torch.manual_seed(0)
    map_ = ScaledLinear(torch.randn(150, 400), torch.rand(1, 400), torch.rand(1, 150))
    truth = exact_spectrum(map_, 1).mean
    hits = 0
    for seed in range(40):
        found = lanczos_spectrum(map_, 1, torch.Generator().manual_seed(seed), 0.05, 150, 4)
        hits += abs(found.mean - truth) <= found.error
    assert hits >= 34  # 95 % of 40 are 38


def test_more_work_makes_the_error_smaller() -> None:
    torch.manual_seed(0)
    model, x = create_model("random_densenet", depth=3, widths=[6], links=4, input_size=12), torch.randn(1, 3, 12, 12)
    rough = isometry(model, x, exact_side=0, tolerance=0.1)
    fine = isometry(model, x, exact_side=0, tolerance=0.003)
    assert fine.error < rough.error
    assert fine.error < 0.006 * fine.mean


def test_nothing_is_changed_and_seeds_repeat() -> None:
    torch.manual_seed(0)
    model = create_model("random_densenet", depth=3, widths=[6], links=4, input_size=8).train()
    x, before, state = torch.randn(2, 3, 8, 8), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    one = isometry(model, x, exact_side=0, batch_norm="batch", seed=3)
    two = isometry(model, x, exact_side=0, batch_norm="batch", seed=3)
    assert one.mean == two.mean
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_batch_statistics_are_those_of_training() -> None:
    """With "batch" each layer sees what it sees in a training step (but for the variance's n - 1)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    x = 5 * torch.randn(64, 3, 6, 6)
    first = isometry(model, x, batch_norm="batch").layers[0]
    spread = model[0](x).detach().var((0, 2, 3))
    model[1].running_var, model[1].running_mean = spread, model[0](x).mean((0, 2, 3)).detach()
    assert first.mean == pytest.approx(isometry(model, x).layers[0].mean, rel=1e-4)


def test_the_result_is_a_table_and_data() -> None:
    found = isometry(create_model("dense_mlp", in_features=3, depth=4), torch.randn(5, 3))
    assert float(found) == found.mean
    assert "layers.3" in str(found)
    assert [row["name"] for row in found.to_dict()["layers"]] == [f"layers.{k}" for k in range(4)]
    assert math.isfinite(found.std)
    assert found.to_json()


class Again(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


MLP = create_model("dense_mlp", in_features=3, depth=4)
WRONG = {
    "whole numbers": (lambda: isometry(MLP, torch.zeros(2, 3).long()), "a batch of floating-point inputs (N, ...)"),
    "no tensor": (lambda: isometry(MLP, [1.0]), "takes a batch of floating-point inputs (N, ...); got list"),  # type: ignore[arg-type]
    "empty": (lambda: isometry(MLP, torch.zeros(0, 3)), "got torch.float32 (0, 3)"),
    "official": (
        lambda: isometry(create_model("resnet8"), torch.zeros(1, 3, 8, 8), official=True),
        "knows the network 'dense_mlp' alone; got CifarResNet",
    ),
    "norms": (lambda: isometry(MLP, torch.zeros(2, 3), batch_norm="x"), "batch_norm must be 'running' or 'batch'"),
    "tolerance": (lambda: isometry(MLP, torch.zeros(2, 3), tolerance=0), "a share between 0 and 1; got 0"),
    "a word": (lambda: isometry(MLP, torch.zeros(2, 3), tolerance="a"), "a share between 0 and 1; got 'a'"),  # type: ignore[arg-type]
    "not finite": (
        lambda: isometry(MLP, torch.full((2, 3), torch.nan)),
        "isometry takes finite inputs; there is NaN or",
    ),
    "wrong features": (
        lambda: isometry(MLP, torch.zeros(2, 4)),
        "cannot run on example_inputs of shape (2, 4) float32",
    ),
    "wrong features, batch": (
        lambda: isometry(MLP, torch.zeros(2, 4), batch_norm="batch"),
        "cannot run on inputs of shape (2, 4) torch.float32: ",
    ),
    "no layer": (lambda: isometry(nn.Sequential(nn.ReLU()), torch.zeros(2, 3)), "has no convolution and no linear"),
    "twice": (lambda: isometry(Again(), torch.zeros(2, 3)), "layer 'layer' reads what it made itself"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(PrecutError) as raised:
        call()
    assert message in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", [False, True])
def test_cells_of_thirteen_layers_take_bounded_memory(depthwise: bool) -> None:
    """The published network at 32 pixels, with vectors of a few megabytes."""
    torch.manual_seed(0)
    model = create_model("random_densenet", depth=13, links=[40, 80, 125], depthwise=depthwise)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = isometry(model, torch.randn(1, 3, 32, 32), batch_norm="batch")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kilobytes
    assert len(found.layers) == 3 * 13 + 1
    assert found.error < 0.015 * found.mean
