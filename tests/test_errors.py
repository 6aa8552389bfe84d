"""The words that users are told."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from precut.errors import PrecutError, real, unknown, whole

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


@pytest.mark.parametrize(
    "given", [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5]), Fraction(1, 2)]
)
def test_numbers_of_any_kind(given: Any) -> None:
    value = real("x", given, 0, 1)
    assert value == 0.5
    assert type(value) is float


@pytest.mark.parametrize(
    "given",
    [math.nan, np.float32("nan"), True, "0.5", b"1", None, [0.5], 1j, torch.ones(2), np.ones(2), 10**400],
)
def test_what_is_no_number(given: Any) -> None:
    with pytest.raises(PrecutError, match=r"^x must be a number; got "):
        real("x", given)


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "words"),
    [
        ({}, [-math.inf, 0, math.inf], [math.nan], "number"),
        ({"finite": True}, [-1e308, 1e308], [-math.inf, math.inf], "finite number"),
        ({"least": 0}, [0, math.inf], [-1e-300], "number from 0 up"),
        ({"most": 1}, [-math.inf, 1], [1.5], "number at most 1"),
        ({"least": 0, "most": 1}, [0, 1], [-0.1, 1.1], "number from 0 to 1"),
        ({"above": 0}, [1e-300], [0, -1], "number above 0"),
        ({"below": 1}, [0.999], [1, 2], "number below 1"),
        ({"above": 0, "below": 1}, [0.5], [0, 1], "number between 0 and 1"),
        ({"above": 0, "most": 1}, [0.1, 1], [0, 1.1], "number above 0 and at most 1"),
        ({"least": 0, "below": 1}, [0, 0.9], [-0.1, 1], "number from 0 and below 1"),
        (
            {"least": 0, "finite": True, "what": "number of seconds"},
            [0],
            [math.inf],
            "finite number of seconds from 0 up",
        ),
    ],
)
def test_limits_of_numbers(limits: dict[str, Any], inside: list[float], outside: list[float], words: str) -> None:
    assert [real("x", value, **limits) for value in inside] == inside
    for value in outside:
        with pytest.raises(PrecutError) as raised:
            real("x", value, **limits)
        assert str(raised.value) == f"x must be a {words}; got {value!r}"


def test_one_base_for_all() -> None:
    assert issubclass(PrecutError, Exception)
    assert not issubclass(PrecutError, (ValueError, TypeError, RuntimeError))
