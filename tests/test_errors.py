"""The words that users are told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from precut.errors import PrecutError, unknown, whole

MODELS = [f"resnet{depth}" for depth in (18, 34, 50)]
MANY = [f"model{number}" for number in range(13)]


@pytest.mark.parametrize(
    ("given", "choices", "see", "message"),
    [
        ("resnet81", MODELS, "", "unknown model 'resnet81': did you mean 'resnet18'?"),
        ("RESNET50", MODELS, "list_models()", "unknown model 'RESNET50': did you mean 'resnet50'?"),
        ("resnet2", ["resnet20", "resnet32"], "", "unknown model 'resnet2': did you mean 'resnet20'?"),
        ("psd4_p8", ["PSD4_P8"], "", "unknown model 'psd4_p8': did you mean 'PSD4_P8'?"),
        ("vgg", MODELS, "", "unknown model 'vgg': choose one of 'resnet18', 'resnet34', 'resnet50'"),
        ("vgg", MODELS, "list_models()", "unknown model 'vgg': choose one of 'resnet18', 'resnet34', 'resnet50'"),
        ("vgg", MANY, "list_models()", "unknown model 'vgg': see list_models()"),
        (7, ["b", "a"], "", "unknown model 7: choose one of 'a', 'b'"),
        (None, {"a": 1}, "", "unknown model None: choose one of 'a'"),
        ("vgg", [], "list_models()", "unknown model 'vgg': there is none"),
    ],
)
def test_unknown(given: object, choices: list[str], see: str, message: str) -> None:
    error = unknown("model", given, choices, see)
    assert isinstance(error, PrecutError)
    assert str(error) == message


def test_unknown_without_a_list_to_see_gives_all() -> None:
    assert str(unknown("model", "vgg", MANY)).count("model") == 14


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_any_kind(given: Any) -> None:
    value = whole("n", given)
    assert value == 3
    assert type(value) is int


@pytest.mark.parametrize("given", [0, -1, True, False, 3.0, 3.5, float("nan"), "3", None, [3], 1j, np.float64(3), 9])
def test_what_is_no_whole_number_in_range(given: Any) -> None:
    with pytest.raises(PrecutError) as raised:
        whole("n", given, 1, 8)
    assert str(raised.value) == f"n must be a whole number from 1 to 8; got {given!r}"


def test_limits_are_inclusive() -> None:
    assert [whole("n", value, -2, 2) for value in (-2, 2)] == [-2, 2]
    with pytest.raises(PrecutError) as raised:
        whole("n", -1, 0)
    assert str(raised.value) == "n must be a whole number of at least 0; got -1"


def test_one_base_for_all() -> None:
    assert issubclass(PrecutError, Exception)
    assert not issubclass(PrecutError, (ValueError, TypeError, RuntimeError))
