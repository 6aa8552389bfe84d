"""create_model's arguments, its messages, and the spec that rebuilds a model."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from precut.errors import PrecutError
from precut.models import create_model, list_models, model_options
from precut.models._registry import MODELS, register


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_list_models_is_sorted_and_globs() -> None:
    names = list_models()
    assert names == sorted(names)
    assert list_models("vgg*") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert list_models("resnet?") == ["resnet8"]
    assert list_models("nothing*") == []


def test_every_promised_model_is_listed() -> None:
    promised = "resnet18 resnet34 resnet50 resnet8 resnet20 resnet32 resnet44 resnet56 resnet110 wide_resnet28_10 "
    promised += "wide_resnet16_8 wide_resnet50_2 vgg11 vgg13 vgg16 vgg19 mobilenetv1 mobilenetv2 shufflenetv1 "
    promised += "shufflenetv2 speednet random_densenet dense_mlp"
    assert set(promised.split()) <= set(list_models())


@pytest.mark.parametrize("name", list_models())
def test_spec_rebuilds_the_model(name: str) -> None:
    asked = {"num_classes": 7, "input_size": 64, "in_channels": 1, "width_mult": 0.25}
    model = create_model(name, **asked)  # type: ignore[arg-type]
    spec = json.loads(json.dumps(model.precut_spec))
    again = create_model(spec["model"], **spec["kwargs"])
    assert shapes(again) == shapes(model)
    assert again.precut_spec == model.precut_spec == copy.deepcopy(model).precut_spec
    assert spec["kwargs"].items() >= asked.items()


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("mobilenetv2", {"repeats": (2, 3, 4, 5, 4, 3, 1), "activation": "relu", "dropout": 0.2}),
        ("mobilenetv1", {"activation": "relu6", "dropout": 0.1}),
        ("speednet", {"widths": (16, 24, 40), "activation": "gelu", "identity_init": True}),
        ("shufflenetv1", {"groups": 8}),
        ("resnet20", {"shortcut": "conv_bn"}),
        ("vgg11", {"head": "mlp"}),
        ("dense_mlp", {"width": 9, "depth": 5, "links": 3, "in_features": 7, "seed": 4}),
        (
            "random_densenet",
            {"depth": 4, "widths": (8, 9), "links": 5, "depthwise": True, "seed": 3, "official": True},
        ),
    ],
)
def test_family_arguments_are_in_the_spec(name: str, kwargs: dict[str, object]) -> None:
    assert model_options(name).keys() == kwargs.keys()
    with torch.device("meta"):
        model = create_model(name, **kwargs)  # type: ignore[arg-type]
        again = create_model(model.precut_spec["model"], **model.precut_spec["kwargs"])
        default = create_model(name)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in kwargs.items()}
    assert model.precut_spec["kwargs"].items() >= plain.items()
    assert [str(module) for module in again.children()] == [str(module) for module in model.children()]
    assert again.precut_spec == model.precut_spec != default.precut_spec


def test_arguments_that_make_a_member_are_not_options() -> None:
    assert model_options("resnet18") == {}
    assert model_options("resnet20") == {"shortcut": "pad"}


def test_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in create_model("resnet8").parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet19", {}, "unknown model 'resnet19': did you mean 'resnet1"),
        ("zzz", {}, r"unknown model 'zzz': see precut\.list_models\(\)"),
        ("vgg16", {"widht_mult": 2}, "unknown argument of model 'vgg16' 'widht_mult': did you mean 'width_mult'?"),
        ("resnet20", {"depth": 26}, "unknown argument of model 'resnet20' 'depth'"),
        ("vgg16", {"input_size": 31}, "model 'vgg16' cannot take input_size=31: .* is 32"),
        ("speednet", {"input_size": 8}, "model 'speednet' cannot take input_size=8: .* is 9"),
        ("vgg16", {"input_size": 0}, "input_size must be a whole number from 1 up, got 0"),
        ("vgg16", {"input_size": (32, 32)}, r"input_size must be a whole number from 1 up, got \(32, 32\)"),
        ("vgg16", {"num_classes": 0}, "num_classes must be a whole number from 1 up, got 0"),
        ("vgg16", {"in_channels": True}, "in_channels must be a whole number from 1 up, got True"),
        ("vgg16", {"width_mult": 0}, "width_mult must be a finite number above 0; got 0"),
        ("vgg16", {"width_mult": float("nan")}, "width_mult must be a finite number above 0; got nan"),
        ("vgg16", {"width_mult": "1"}, "width_mult must be a finite number above 0; got '1'"),
        ("vgg16", {"head": "mpl"}, "unknown head 'mpl': did you mean 'mlp'?"),
        ("vgg16", {"head": object()}, "arguments must be numbers, strings or lists of them"),
        ("resnet20", {"shortcut": "pas"}, "unknown shortcut 'pas': did you mean 'pad'?"),
        ("mobilenetv2", {"repeats": [1, 2]}, r"must be 7 whole numbers .* \[1, 2, 3, 4, 3, 3, 1\], got \[1, 2\]"),
        ("mobilenetv2", {"repeats": [1, 2, 3, 4, 3, 3, 0]}, "must be 7 whole numbers above 0"),
        ("mobilenetv2", {"repeats": 3}, "must be 7 whole numbers above 0 .* got 3"),
        ("mobilenetv1", {"activation": "rel"}, "unknown activation 'rel': did you mean 'relu'?"),
        ("mobilenetv1", {"dropout": 1}, "dropout must be a probability from 0 and below 1; got 1"),
        ("shufflenetv1", {"groups": 5}, r"groups must be one of \[1, 2, 3, 4, 8\], got 5"),
        ("shufflenetv1", {"groups": [3]}, r"groups must be one of \[1, 2, 3, 4, 8\], got \[3\]"),
        ("shufflenetv1", {"width_mult": 0.1}, r"width_mult must be at least 0.25, got 0.1"),
        ("speednet", {"activation": "tanh"}, "unknown activation 'tanh': choose one of 'gelu', 'relu', 'relu6'"),
        ("speednet", {"widths": (1, 2)}, r"three whole numbers above 0 such as \(64, 256, 256\), got \(1, 2\)"),
        ("speednet", {"widths": 64}, r"three whole numbers above 0 such as \(64, 256, 256\), got 64"),
        ("speednet", {"widths": (8, 8, 8), "width_mult": 0.5}, "pass one of the two"),
        ("dense_mlp", {"depth": 2}, "a cell of depth=2 has no layer that a long-range link could skip"),
        ("dense_mlp", {"depth": 3.5}, "depth must be a whole number of at least 3; got 3.5"),
        ("dense_mlp", {"links": -1}, "links must be a whole number of at least 0; got -1"),
        ("dense_mlp", {"width": 0}, "width must be a whole number of at least 1; got 0"),
        ("dense_mlp", {"in_features": 0}, "in_features must be a whole number of at least 1; got 0"),
        ("random_densenet", {"depth": 1}, "a cell of depth=1 has no layer"),
        ("random_densenet", {"links": [1, 2]}, r"links must be one number or one a cell, 3 here; got \[1, 2\]"),
        ("random_densenet", {"links": -2}, "links must be a whole number of at least 0; got -2"),
        ("random_densenet", {"widths": [8, 8]}, "got 2 widths: pass links too, one number or one a cell"),
        (
            "random_densenet",
            {"widths": [8, 0], "links": 1},
            "each of widths must be a whole number of at least 1; got 0",
        ),
        ("random_densenet", {"widths": 8}, r"widths must be a list such as \[32, 64, 128\], got 8"),
        ("random_densenet", {"widths": [8], "links": 1, "width_mult": 0.5}, "pass one of the two"),
        ("random_densenet", {"official": 1}, "official must be True or False; got 1"),
        ("random_densenet", {"seed": -1}, "seed must be a whole number of at least 0; got -1"),
    ],
)
def test_wrong_arguments(name: str, kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(PrecutError, match=message), torch.device("meta"):
        create_model(name, **kwargs)  # type: ignore[arg-type]


def test_registering_a_family_makes_it_creatable() -> None:
    @register("test_mlp", min_input_size=1, layers=1)
    def build(
        num_classes: int, input_size: int, in_channels: int, width_mult: float, *, layers: int, in_features: int = 5
    ) -> torch.nn.Module:
        return torch.nn.Sequential(*[torch.nn.Linear(in_features, num_classes) for _ in range(layers)])

    try:
        assert model_options("test_mlp") == {"in_features": 5}
        model = create_model("test_mlp", num_classes=2, in_features=9)
        assert shapes(model) == {"0.weight": (2, 9), "0.bias": (2,)}
        with pytest.raises(PrecutError, match="'test_mlp' is registered already"):
            register("test_mlp", min_input_size=1)(build)
    finally:
        del MODELS._entries["test_mlp"]
