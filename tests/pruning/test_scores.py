"""Scores against closed forms, the definition by differences, and what they must not depend on."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut.errors import PrecutError
from precut.pruning import NTKSAP, GraSP, Network, Score, score_weights, scores
from pruning.plain import ReferenceNet

X = torch.zeros(1, 3, 8, 8)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(54, 5),
    )  # fmt: skip
    return net.double().eval()


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator), torch.arange(4) + number)
        for number in range(count)
    ]


def of(model: nn.Module, score: object, **options: object) -> dict[str, Tensor]:
    return score_weights(model, score, X, data=batches(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(scores))
def test_every_score_gives_a_number_for_every_weight(name: str) -> None:
    model = small()
    found = of(model, name)
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "0": (4, 3, 3, 3), "3": (6, 4, 3, 3), "6": (5, 54)
    }  # fmt: skip
    assert all(torch.isfinite(value).all() for value in found.values())
    again = of(model, name)
    assert all(torch.equal(value, again[key]) for key, value in found.items())
    assert model[0].weight.grad is None
    assert model.training is False


def test_a_linear_chain_has_synflow_in_closed_form() -> None:
    """[1^T prod of the later |W|]_i |w_ij| [prod of the earlier |W| 1]_j, equation 4 of the paper."""
    torch.manual_seed(3)
    a, b, c = nn.Linear(4, 3), nn.Linear(3, 5), nn.Linear(5, 2)
    model = nn.Sequential(a, nn.ReLU(), b, nn.LeakyReLU(), nn.Dropout(), c).double()
    wa, wb, wc = (layer.weight.detach().abs() for layer in (a, b, c))
    ones = torch.ones(4, dtype=torch.float64)
    expected = {
        "0": (wc @ wb).sum(0)[:, None] * wa * ones,
        "2": wc.sum(0)[:, None] * wb * (wa @ ones),
        "5": wc * (wb @ (wa @ ones)),
    }
    found = score_weights(model, "synflow", torch.zeros(1, 4))
    assert all(torch.allclose(found[name], value, rtol=1e-12) for name, value in expected.items())


def test_synflow_ignores_biases_means_and_activations() -> None:
    plain = small()
    changed = copy.deepcopy(plain)
    with torch.no_grad():
        for name, value in changed.named_parameters():
            if name.endswith("bias"):
                value.normal_()
        changed[1].running_mean.normal_()
    first, second = of(plain, "synflow"), of(changed, "synflow")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with torch.no_grad():
        changed[1].running_var.fill_(0.25)  # the norm's scale counts
    third = of(changed, "synflow")
    assert all(torch.allclose(third[name], 2 * value, rtol=1e-4) for name, value in first.items())


@pytest.mark.parametrize("factor", [1e6, 1e-6, 2.0**200, 2.0**-400])
def test_a_layer_times_a_number_changes_no_order(factor: float) -> None:
    model = ReferenceNet().double()
    _, before = precut.prune(model, "synflow", 0.01, torch.zeros(1, 3, 32, 32), rounds=10)
    with torch.no_grad():
        model.convs[1].weight.mul_(factor)
    _, after = precut.prune(model, "synflow", 0.01, torch.zeros(1, 3, 32, 32), rounds=10)
    masks = after.masks()
    assert all(torch.equal(mask, masks[name]) for name, mask in before.masks().items())


def test_deep_networks_overflow_nothing() -> None:
    """1,000 layers that multiply the flow by 100 each, and 1,000 that divide it: 10^2000 and back."""
    for scale in (100.0, 0.01):
        layers: list[nn.Module] = []
        for _ in range(1000):
            layer = nn.Linear(2, 2, bias=False)
            nn.init.constant_(layer.weight, scale / 2)
            layers += [layer, nn.ReLU()]
        model = nn.Sequential(*layers)
        with torch.no_grad():
            model[500].weight[0, 0] *= 3
        found = score_weights(model, "synflow", torch.zeros(1, 2))
        sums = torch.stack([score.sum() for score in found.values()])
        assert torch.isfinite(sums).all()
        assert float(sums.min()) > 0
        assert float(sums.max() / sums.min()) == pytest.approx(1, rel=1e-9)


def test_resnet110_is_finite_where_the_official_code_overflows() -> None:
    model = precut.create_model("resnet110", width_mult=0.5)
    found = score_weights(model, "synflow", torch.zeros(1, 3, 32, 32))
    assert all(torch.isfinite(score).all() and score.sum() > 0 for score in found.values())
    absolute = copy.deepcopy(model).eval()
    for value in absolute.state_dict().values():
        value.abs_()
    assert not torch.isfinite(absolute(torch.ones(1, 3, 32, 32)).sum())  # as it stands there, in float32


def test_snip_is_the_effect_of_a_factor_on_each_weight() -> None:
    """|dL/dm| by central differences of the loss, summed over the batches."""
    model = small()
    found = of(model, "snip")
    for name, place in (("0", (1, 2, 0, 1)), ("3", (5, 3, 2, 2)), ("6", (4, 50))):
        weight = model.get_submodule(name).weight

        def loss_at(factor: float, weight: Tensor = weight, place: tuple[int, ...] = place) -> float:
            with torch.no_grad():
                kept = weight[place].clone()
                weight[place] = kept * factor
                total = sum(F.cross_entropy(model(x), y) for x, y in batches())
                weight[place] = kept
            return float(total)

        slope = (loss_at(1 + 1e-5) - loss_at(1 - 1e-5)) / 2e-5
        assert float(found[name][place]) == pytest.approx(abs(slope), rel=1e-5, abs=1e-12)


def test_force_scores_what_is_gone_and_snip_keeps_it_gone() -> None:
    model = small()
    masks = {name: torch.rand_like(score) > 0.5 for name, score in of(model, "magnitude").items()}
    found = of(model, "force", masks=masks)
    assert any(bool((found[name][~mask] > 0).any()) for name, mask in masks.items())
    seen: list[dict[str, Tensor]] = []

    class Recorded(Score):
        def __call__(self, network: Network) -> dict[str, Tensor]:
            seen.append({name: mask.clone() for name, mask in network.masks.items()})
            return {name: torch.rand(layer.shape) for name, layer in network.layers.items()}

    precut.prune(model, Recorded, 0.1, X, rounds=5)
    assert all(bool((later[name] <= mask).all()) for a, later in itertools.pairwise(seen[1:])
               for name, mask in a.items())  # fmt: skip

    class Regrowing(Recorded):
        regrows = True

    seen.clear()
    precut.prune(model, Regrowing, 0.1, X, rounds=5)
    assert any(bool((later[name] & ~mask).any()) for a, later in itertools.pairwise(seen[1:])
               for name, mask in a.items())  # fmt: skip


def test_grasp_is_the_change_of_the_gradients_norm() -> None:
    """w . H g is half the derivative of |g|^2 when a weight grows in proportion: by central differences."""
    model = small()
    data = batches(1)
    found = score_weights(model, GraSP, X, data=data)
    weights = [model[i].weight for i in (0, 3, 6)]

    def norm() -> float:
        x, y = data[0]
        gradients = torch.autograd.grad(F.cross_entropy(model(x) / 200, y), weights)
        return sum(float((g * g).sum()) for g in gradients)

    for name, place in (("0", (0, 1, 1, 1)), ("6", (2, 7))):
        weight = model.get_submodule(name).weight
        kept = float(weight[place].detach())
        ends = []
        for factor in (1 + 1e-4, 1 - 1e-4):
            with torch.no_grad():
                weight[place] = kept * factor
            ends.append(norm())
        with torch.no_grad():
            weight[place] = kept
        slope = (ends[0] - ends[1]) / 2e-4 / 2
        assert float(found[name][place]) == pytest.approx(slope, rel=1e-3, abs=1e-16)


def test_ntk_sap_of_a_linear_layer_in_closed_form() -> None:
    """f = (m w) x: ||f(w) - f(w + e)||^2 = sum over outputs of (sum m e x)^2, whose gradient at m = 1 is known."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    network_draws = torch.Generator().manual_seed(5)
    x = torch.randn(64, 3, generator=network_draws, dtype=torch.float64)
    torch.randn(2, 3, generator=network_draws, dtype=torch.float64)  # the weights, which cancel
    moved = torch.randn(2, 3, generator=network_draws, dtype=torch.float64) * 0.01
    difference = x @ moved.T
    expected = (2 * torch.einsum("bo,bi->oi", difference, x) * moved).abs()
    found = score_weights(model, NTKSAP(repeats=1), torch.zeros(1, 3, dtype=torch.float64), seed=5)
    assert torch.allclose(found["0"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", list(scores))
def test_every_score_follows_the_published_precision(name: str) -> None:
    """A float32 model is scored in float64."""
    found = score_weights(small(), name, X, data=batches(), official=True)
    wider = score_weights(small().double(), name, X, data=batches(), official=True)
    for layer, score in wider.items():
        assert score.dtype == torch.float64
        assert torch.allclose(found[layer].double(), score, rtol=1e-5)


def test_data_free_scores_touch_no_loader() -> None:
    class Untouchable:
        def __iter__(self) -> None:
            raise AssertionError("the loader was touched")

    for name in scores:
        if not scores[name].needs_data:
            score_weights(small(), name, X, data=Untouchable())  # type: ignore[arg-type]


def test_a_function_of_ones_own() -> None:
    def by_position(network: Network) -> dict[str, Tensor]:
        return {name: torch.arange(layer.size).view(layer.shape).float() for name, layer in network.layers.items()}

    _, report = precut.prune(small(), by_position, 0.1, X, "uniform")
    assert report.score == "by_position"
    for mask in report.masks().values():
        flat = mask.flatten()
        assert flat[len(flat) - int(flat.sum()) :].all()


def test_dicts_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
            return self.b(self.a(x) + y)

    example = {"x": torch.zeros(1, 3), "y": torch.zeros(1, 2)}
    data = [({"x": torch.randn(4, 3), "y": torch.randn(4, 2)}, torch.arange(4) % 2)]
    for name in ("synflow", "snip", "ntk-sap"):
        _, report = precut.prune(Two(), name, 0.5, example, data=data)
        assert report.k == 5
        assert report.live is not None


def wrong(message: str, *args: object, **options: object) -> None:
    with pytest.raises(PrecutError) as raised:
        precut.prune(*args, **options)  # type: ignore[arg-type]
    assert str(raised.value) == message


def test_wrong_scores() -> None:
    model = small()
    wrong("unknown score 'sinflow': did you mean 'synflow'?", model, "sinflow", 0.1, X)
    wrong("score 'snip' needs data=[(inputs, targets), ...] (any iterable of batches)", model, "snip", 0.1, X)
    wrong("data must be an iterable of batches (inputs, targets); got int", model, "snip", 0.1, X, data=3)
    wrong(
        "data holds no batch: pass a list of (inputs, targets), or something that can be iterated anew",
        *(model, "snip", 0.1, X),
        data=[],
    )
    wrong("a batch of data must be a pair (inputs, targets); got Tensor", model, "snip", 0.1, X, data=[X])
    wrong(
        "loss(result, targets) must give one number, a tensor; got (4, 5)",
        *(model, "grasp", 0.1, X),
        data=batches(),
        loss=lambda result, targets: result,
    )
    wrong("score 'nothing' must give a dict of tensors by layer; got NoneType", model, _nothing, 0.1, X)
    wrong("score 'half' gave no numbers for layer '3'", model, _half, 0.1, X)
    wrong(
        "score 'flat' must give a floating-point tensor of shape (4, 3, 3, 3) for layer '0'; got torch.float32 (108,)",
        *(model, _flat, 0.1, X),
    )
    wrong("score 'nans' gave NaN or infinity for layer '0'", model, _nans, 0.1, X)
    wrong(
        "score must be one of 'random', 'magnitude', 'snip', 'force', 'grasp', 'ntk-sap', 'synflow', a Score, or a function of "
        "a Network; got 3",
        *(model, 3, 0.1, X),
    )
    broken = small()
    with torch.no_grad():
        broken[0].weight[0] = float("nan")
    wrong("layer '0' holds weights that are not finite, or too large to be added", broken, "synflow", 0.1, X)


def _nothing(network: Network) -> None:
    return None


def _half(network: Network) -> dict[str, Tensor]:
    return {"0": torch.zeros(4, 3, 3, 3)}


def _flat(network: Network) -> dict[str, Tensor]:
    return {name: torch.zeros(layer.size) for name, layer in network.layers.items()}


def _nans(network: Network) -> dict[str, Tensor]:
    return {name: torch.full(layer.shape, torch.nan) for name, layer in network.layers.items()}


for _function, _name in ((_nothing, "nothing"), (_half, "half"), (_flat, "flat"), (_nans, "nans")):
    _function.__name__ = _name
