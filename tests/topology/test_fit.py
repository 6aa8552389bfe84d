"""The accuracy line against numpy's least squares, its bands against simulation, and its honesty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from precut import PrecutError, create_model
from precut.topology import design, fit, nn_mass

X = np.array([10.0, 14, 20, 25, 31, 40, 44, 52])
Y = np.array([0.71, 0.74, 0.78, 0.77, 0.83, 0.85, 0.88, 0.93])


def test_least_squares() -> None:
    line = fit(X, Y)
    slope, intercept = np.polyfit(X, Y, 1)
    assert (line.slope, line.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert line.r_squared == pytest.approx(np.corrcoef(X, Y)[0, 1] ** 2)
    residuals = Y - intercept - slope * X
    assert line.residual == pytest.approx(np.sqrt((residuals**2).sum() / 6))
    log = fit(X, Y, scale="log")
    assert (log.slope, log.intercept) == tuple(pytest.approx(v) for v in np.polyfit(np.log(X), Y, 1))
    assert log.predict(20.0)[0] == pytest.approx(log.intercept + log.slope * np.log(20))


def test_left_one_out_is_what_it_says() -> None:
    gaps, around = [], []
    for k in range(len(X)):
        keep = np.arange(len(X)) != k
        slope, intercept = np.polyfit(X[keep], Y[keep], 1)
        gaps.append(Y[k] - intercept - slope * X[k])
        around.append(Y[k] - Y[keep].mean())
    assert fit(X, Y).predictive == pytest.approx(1 - np.square(gaps).sum() / np.square(around).sum())


def test_bands_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    hits = models = 0
    for _ in range(300):
        line = fit(X, 0.5 + 0.01 * X + 0.05 * random.normal(size=len(X)))
        _, low, high = line.predict(35.0, level=0.9)
        hits += low <= 0.85 <= high
        _, low, high = line.predict(35.0, level=0.9, of="model")
        models += low <= 0.85 + 0.05 * random.normal() <= high
    assert 252 <= hits <= 288  # 270 +- 3.5 standard deviations
    assert 252 <= models <= 288


def test_it_says_when_mass_explains_no_more_than_parameters() -> None:
    random = np.random.default_rng(1)
    mass, params = random.uniform(10, 50, 30), np.exp(random.uniform(10, 14, 30))
    by_mass = fit(mass, 0.01 * mass + 0.02 * random.normal(size=30), params)
    by_params = fit(mass, 0.05 * np.log(params) + 0.02 * random.normal(size=30), params)
    both = fit(mass, 0.01 * mass + 0.02 * random.normal(size=30), np.exp(mass / 10))
    assert by_mass.explains_more_than_params
    assert "mass explains more than the parameter count" in by_mass.verdict()
    for line in (by_params, both):
        assert line.explains_more_than_params is False
        assert "no more than the parameter count does" in str(line)
    assert by_params.predictive < 0.1
    assert fit(X, Y).explains_more_than_params is None
    assert "so few points carry no claim" in fit(X, Y).verdict()


def test_models_in_and_a_design_out() -> None:
    models = [
        create_model("dense_mlp", in_features=2, num_classes=2, links=t, depth=d) for t, d in ((2, 9), (5, 7), (9, 8))
    ]
    line = fit(models, [0.7, 0.8, 0.9])
    assert line.masses == tuple(nn_mass(model).mass for model in models)
    assert line.params_r_squared is not None
    found = design(line, "dense_mlp", accuracy=0.85, in_features=2, num_classes=2, tolerance=0.03)
    assert found.target == pytest.approx((0.85 - line.intercept) / line.slope)
    assert line.predict(found.best.mass)[0] == pytest.approx(0.85, abs=0.01)


def test_pictures_and_data(tmp_path: Path) -> None:
    line = fit(X, Y, np.exp(X / 7))
    assert line.plot(tmp_path / "line.png").stat().st_size > 1000
    assert line.to_dict()["n"] == 8
    assert "95 % band" in str(line.table())
    assert line.to_json()


WRONG = {
    "few": (lambda: fit([1, 2], [1, 2]), "for at least 3 models; got 2 masses, 2 accuracies"),
    "lengths": (lambda: fit([1, 2, 3], [1, 2]), "got 3 masses, 2 accuracies"),
    "params": (lambda: fit([1, 2, 3], [1, 2, 3], [4]), "3 accuracies, 1 parameter counts"),
    "no parameters": (
        lambda: fit([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        "each parameter count must be a number above 0; got 0",
    ),
    "fewer than none": (
        lambda: fit([1, 2, 3], [1, 2, 3], [-5, 1, 2]),
        "each parameter count must be a number above 0; got -5",
    ),
    "a word of parameters": (
        lambda: fit([1, 2, 3], [1, 2, 3], ["a", 1, 2]),  # type: ignore[list-item]
        "each parameter count must be a number; got 'a'",
    ),
    "one mass": (lambda: fit(3, [0.5]), "fit takes lists, the masses (or models) and the accuracies; masses is 3"),  # type: ignore[arg-type]
    "predicted a word": (lambda: fit(X, Y).predict("a"), "mass must be a number; got 'a'"),  # type: ignore[arg-type]
    "equal": (lambda: fit([2, 2, 2], [1, 2, 3]), "fit needs models of different mass; all are equal"),
    "infinite": (lambda: fit([1, 2, float("inf")], [1, 2, 3]), "fit needs finite masses and accuracies"),
    "a word": (lambda: fit(["a", 2, 3], [1, 2, 3]), "each mass must be a number; got 'a'"),  # type: ignore[list-item]
    "none": (lambda: fit([1, 2, 3], [1, None, 3]), "each accuracy must be a number; got None"),  # type: ignore[list-item]
    "a dict": (lambda: fit({"a": 1.0}, {"a": 2.0}), "fit takes lists, the masses (or models) and"),  # type: ignore[arg-type]
    "asked a word": (lambda: fit(X, Y).mass_at("high"), "accuracy must be a number; got 'high'"),  # type: ignore[arg-type]
    "scale": (lambda: fit([1, 2, 3], [1, 2, 3], scale="root"), "scale must be 'linear' or 'log'; got 'root'"),
    "log of 0": (lambda: fit([0, 2, 3], [1, 2, 3], scale="log"), "a line over log(mass) needs masses above 0"),
    "falling": (lambda: fit([1, 2, 3], [3, 2, 1]).mass_at(2), "does not rise with mass (slope -1)"),
    "far": (lambda: fit(X, Y).mass_at(5.0), "accuracy 5 lies too far outside what the line was fitted to"),
    "of": (lambda: fit(X, Y).predict(3, of="x"), "of must be 'mean' or 'model'; got 'x'"),
    "level": (lambda: fit(X, Y).predict(3, level=95), "level must be between 0 and 1; got 95"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(PrecutError) as raised:
        call()
    assert message in str(raised.value)


def test_random_state_is_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    fit(X, Y, np.exp(X / 7))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
