"""sparsify: which layers become sparse, with which weights, and that nothing else changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from layers.twins import dense_by_mask
from precut.errors import PrecutError
from precut.layers import SparseConv2d, init_fresh_, replace_layer_, sparse_like, sparsify, sparsify_
from precut.supports import FAMILIES, RandomKernel, parse


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=2)
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x).relu()) + self.shortcut(x)


class Net(nn.Module):
    """Convolutions of every kind, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16), Block(16))
        self.layer2 = nn.Sequential(Block(16), nn.Conv2d(16, 16, 5, stride=2, padding=2, groups=16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer2(self.layer1(self.norm(self.stem(x)))).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def sparse_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, SparseConv2d)}


ALL = {
    *("layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"),
    *("layer2.0.conv1", "layer2.0.conv2", "layer2.1"),
}


@pytest.mark.parametrize("support", FAMILIES)
def test_all_but_the_first_convolution_1x1_ones_and_linear_layers(support: str) -> None:
    model = sparsify(net(), support)
    assert sparse_names(model) == (set() if support == "dense" else ALL)
    dense = net()
    for name in sparse_names(model):
        layer, old = model.get_submodule(name), dense.get_submodule(name)
        assert isinstance(layer, SparseConv2d)
        assert layer.dense_shape == tuple(old.weight.shape)  # type: ignore[union-attr, arg-type]
        for attribute in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
            assert getattr(layer, attribute) == getattr(old, attribute)
        assert (layer.bias is None) == (old.bias is None)
        expected = parse(support).mask(old.weight.shape, old.groups)  # type: ignore[union-attr, arg-type]
        if not support.startswith("pSC"):
            assert torch.equal(layer.support.mask(), expected)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_what_stays_dense_keeps_its_weights() -> None:
    model, dense = sparsify(net(), "PSD4_P8"), net()
    kept = {name: value for name, value in dense.state_dict().items() if name.rpartition(".")[0] not in ALL}
    assert len(kept) == 15
    for name, value in kept.items():
        assert torch.equal(model.state_dict()[name], value)


def test_the_model_given_is_not_touched() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    made = sparsify(model, "PSD1_P8", init="project")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
    assert sparse_names(model) == set()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_in_place_returns_the_same_model() -> None:
    model = net()
    stem = model.stem
    assert sparsify_(model, "PSD1_P8") is model
    assert model.stem is stem
    assert sparse_names(model) == ALL


def test_dense_leaves_everything_as_it_is() -> None:
    model = net()
    made = sparsify(model, "dense", init="fresh")
    assert made is not model
    for name, value in made.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    linear = nn.Linear(3, 3)  # nothing that a support could be put on
    assert sparsify_(linear, "dense") is linear


IGNORED: list[tuple[Callable[[Net], Any], set[str]]] = [
    (lambda m: "layer1.0.conv1", {"layer1.0.conv1"}),
    (lambda m: ["layer1.*"], {name for name in ALL if name.startswith("layer1")}),
    (lambda m: "*.conv1", {name for name in ALL if name.endswith("conv1")}),
    (lambda m: "layer?", ALL - set()),
    (lambda m: ["layer2.1", m.layer1[0]], {"layer2.1", "layer1.0.conv1", "layer1.0.conv2"}),
    (lambda m: m.layer1[1].conv2, {"layer1.1.conv2"}),
    (lambda m: (name for name in ("layer1", "head")), {name for name in ALL if name.startswith("layer1")}),
    (lambda m: {"stem", "norm"}, set()),
]


@pytest.mark.parametrize(("ignored", "kept_dense"), IGNORED)
@pytest.mark.parametrize("function", [sparsify, sparsify_])
def test_ignored_layers(function: Any, ignored: Callable[[Net], Any], kept_dense: set[str]) -> None:
    """Modules (of the model given, not of its copy), names and globs, with all that is inside them."""
    model = net()
    if kept_dense == ALL:
        with pytest.raises(PrecutError, match="no layer to make sparse"):
            function(model, "PSD4_P8", ignored_layers=ignored(model))
    else:
        made = function(model, "PSD4_P8", ignored_layers=ignored(model))
        assert sparse_names(made) == ALL - kept_dense


def test_fresh_weights_are_he_normal_with_the_fan_in_that_exists() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 256, 3), nn.Conv2d(256, 128, 5, groups=4))
    for support in ("PSD4_P8", "pSC1", "center_P3"):
        made = sparsify(model, support)
        for layer in (made[1], made[2]):
            assert isinstance(layer, SparseConv2d)
            dense, mask = dense_by_mask(layer).flatten(1), layer.support.mask().flatten(1)
            scaled = dense * (mask.sum(1, keepdim=True) / 2).sqrt()
            values = scaled[mask]
            assert values.std() == pytest.approx(1, abs=5 / math.sqrt(2 * values.numel()))
            assert values.mean() == pytest.approx(0, abs=5 / math.sqrt(values.numel()))
            # Normal, not uniform: 4.6 % lie beyond two standard deviations.
            assert (values.abs() > 2).double().mean() == pytest.approx(0.0455, abs=0.01)
            assert layer.bias is not None
            assert not layer.bias.any()


def test_fresh_activations_keep_their_scale() -> None:
    """What the fan-in is for: the mean square after a sparse layer and a ReLU is that before, even at density 1/9."""
    torch.manual_seed(0)
    model = sparsify(nn.Sequential(nn.Conv2d(3, 128, 3), nn.Conv2d(128, 128, 3, padding=1)), "PS1_P9")
    x = torch.randn(4, 128, 16, 16).relu()
    output = model[1](x)[:, :, 1:-1, 1:-1].relu()
    assert output.square().mean().item() == pytest.approx(float(x.square().mean()), rel=0.15)


def test_a_seed_gives_the_same_weights_and_leaves_torchs_numbers_alone() -> None:
    model = net()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, again, other = (sparsify(model, "pSC2", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    sparsify(model, "pSC2", init="project")
    assert torch.equal(torch.get_rng_state(), state)
    for name in ALL:
        weights = [made.get_submodule(name).weight for made in (first, again, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


def test_layers_of_one_shape_draw_different_weights_and_random_supports() -> None:
    model = sparsify(net(), RandomKernel(2, seed=5))
    layers: list[Any] = [model.get_submodule(name) for name in ("layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1")]
    assert [layer.support.maker.seed for layer in layers] == [5, 5, 5]
    assert len({layer.support.maker.stream for layer in layers}) == 3
    for one in layers:
        for two in layers:
            assert one is two or not torch.equal(one.support.mask(), two.support.mask())
            assert one is two or not torch.equal(one.weight, two.weight)


def test_project_keeps_trained_weights() -> None:
    model = net()
    made = sparsify(model, "PSD4_P8", init="project")
    for name in ALL:
        layer, old = made.get_submodule(name), model.get_submodule(name)
        assert isinstance(layer, SparseConv2d)
        assert torch.equal(layer.dense_weight(), old.weight * layer.support.mask())  # type: ignore[operator]
        if layer.bias is not None:
            assert torch.equal(layer.bias, old.bias)  # type: ignore[arg-type]


def test_params_are_counted_by_the_formula() -> None:
    model = sparsify(nn.Sequential(nn.Conv2d(3, 32, 3, bias=False), nn.Conv2d(32, 64, 3, bias=False)), "PSD1_P16")
    assert sum(p.numel() for p in model.parameters()) == 32 * 27 + 64 * (32 // 16) * (15 * 1 + 9)


def test_mode_dtype_and_device_are_kept() -> None:
    model = net().double().eval()
    made = sparsify(model, "PSD4_P8")
    for name in ALL:
        assert not made.get_submodule(name).training
        assert made.get_submodule(name).weight.dtype is torch.float64
    on_meta = sparsify(net().to("meta"), "PSD4_P8")
    assert sparse_names(on_meta) == ALL
    assert all(parameter.is_meta for parameter in on_meta.parameters())
    assert all(p.is_meta for p in sparsify(net().to("meta"), "pSC1", init="project").parameters())


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.blocks = nn.ModuleList([self.again, nn.Sequential(self.again)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.first(x))
        for block in self.blocks:
            x = block(x)
        return x


def test_a_shared_module_is_replaced_wherever_it_is_used() -> None:
    model = sparsify(Shared(), "PSD4_P8")
    assert isinstance(model.again, SparseConv2d)
    assert model.blocks[0] is model.blocks[1][0] is model.again
    assert len(list(model.parameters())) == 4
    assert model(torch.randn(1, 8, 6, 6)).shape == (1, 8, 6, 6)
    with pytest.raises(PrecutError, match="no layer to make sparse"):
        sparsify(Shared(), "PSD4_P8", ignored_layers="blocks.1.0")  # its second name


def test_replace_layer() -> None:
    model = Shared()
    layer = sparse_like(model.again, parse("PSD4_P8").support((8, 8, 3, 3)))
    replace_layer_(model, "again", layer)
    assert model.again is model.blocks[0] is model.blocks[1][0] is layer
    replace_layer_(model, "blocks.1", nn.Identity())
    assert isinstance(model.blocks[1], nn.Identity)


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Named(nn.Conv2d):
    """A subclass that computes what nn.Conv2d does."""


def test_subclasses_that_compute_the_same_become_sparse() -> None:
    model = sparsify(nn.Sequential(nn.Conv2d(3, 8, 3), Named(8, 8, 3)), "PSD4_P8")
    assert isinstance(model[1], SparseConv2d)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[2].weight = model[1].weight
    return model


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].register_forward_hook(lambda module, inputs, output: None)
    return model


NOT_POSSIBLE: list[tuple[Callable[[], nn.Module], dict[str, Any], str]] = [
    (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 2)),
        {"support": "center"},
        "layer '2': a 2x2 kernel has no centre; center needs odd kernel sizes",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 8, 3)),
        {"support": "2:4"},
        "layer '2': 2:4 needs input channels (per group) that are a multiple of 4; the layer has 6",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), Standardised(8, 8, 3)),
        {},
        "layer '2': a Standardised cannot be made sparse; nn.Conv2d and nn.Linear can, and subclasses that keep their "
        "forward",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3), parametrizations.weight_norm(nn.Conv2d(8, 8, 3))),
        {},
        "layer '1' computes its weight (a mask or parametrization); use precut.from_masks first, or keep it dense: "
        "ignored_layers=['1']",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.LazyConv2d(8, 3)),
        {},
        "layer '1' does not know its input channels yet; run the model once first, or keep it dense: "
        "ignored_layers=['1']",
    ),
    (
        tied,
        {},
        "layers '1', '2' share a parameter, which sparse layers cannot; untie them, or keep all dense: "
        "ignored_layers=['1', '2']",
    ),
    (
        hooked,
        {},
        "layer '1' has hooks, which a sparse layer in its place would lose; remove them first, or keep the layer dense",
    ),
]


@pytest.mark.parametrize(("make", "options", "message"), NOT_POSSIBLE, ids=[message for _, _, message in NOT_POSSIBLE])
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_what_cannot_be_done_leaves_the_model_as_it_was(
    make: Callable[[], nn.Module], options: dict[str, Any], message: str
) -> None:
    model = make()
    modules = list(model.modules())
    state = dict(model.named_parameters())
    with pytest.raises(PrecutError) as raised:
        sparsify_(model, **{"support": "PSD4_P8", **options})
    assert str(raised.value) == message
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))
    assert all(value is state[name] for name, value in model.named_parameters())


def test_fresh_weights_for_supports_that_came_otherwise() -> None:
    """As sparsify(init="fresh") draws them, whatever was there before."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    expected = sparsify(model, "PSD4_P8", seed=5)
    other = sparsify(model, "PSD4_P8", init="project")
    stem = other[0].weight.detach().clone()
    random = torch.get_rng_state()
    assert init_fresh_(other, seed=5) is other
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in expected.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    assert torch.equal(other[0].weight, stem)
    with pytest.raises(PrecutError, match="seed must be a whole number"):
        init_fresh_(other, seed=-1)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)
        self.c = nn.Conv2d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(nn.functional.conv2d(self.a(x), self.b.weight, self.b.bias))


@pytest.mark.parametrize("make", [sparsify, sparsify_])
def test_a_weight_that_other_code_reads_is_told_by_an_example(make: Callable[..., nn.Module]) -> None:
    model, x = Functional(), torch.zeros(1, 3, 8, 8)
    with pytest.raises(PrecutError, match=r"^layer 'b' has a weight that other code reads .*: ignored_layers=\['b'\]$"):
        make(model, "PS2_P4", example_inputs=x)
    assert not sparse_names(model)
    made = make(model, "PS2_P4", ignored_layers=["b"], example_inputs=x)
    assert sparse_names(made) == {"c"}
    made(x)
