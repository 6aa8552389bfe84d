"""The synthetic points: their distribution, their classes, and training on them."""

from __future__ import annotations

import math

import pytest
import torch

from precut import PrecutError, create_model
from precut.data import BatchLoader, list_datasets, load, locate, segments
from precut.training import evaluate, fit, load_recipe


@pytest.mark.parametrize("count", [20, 27, 40])
@pytest.mark.parametrize("shape", ["linear", "circle"])
def test_classes_alternate_over_equal_segments(shape: str, count: int) -> None:
    data = load(f"{shape}-{count}")
    assert (len(data.train), len(data.test), data.image_shape) == (12_000, 1_200, (2, 1, 1))
    for split in (data.train, data.test):
        x = split.images.flatten(1)
        along = x[:, 0] if shape == "linear" else x.norm(dim=1)
        if shape == "linear":
            assert torch.equal(x[:, 0], x[:, 1])
        assert along.min() >= 0
        assert along.max() < 100 + 1e-4
        safe = (along * count / 100).frac().sub(0.5).abs() < 0.499  # float32 may carry a point over a border
        expected = (along * count / 100).floor().long() % 2
        assert torch.equal(expected[safe], split.labels[safe])
        assert torch.bincount((along[safe] * 1.2).long().clamp(0, 119)).float().std() < 3  # as many in each bin


def test_radii_are_normal_in_their_bins_and_angles_uniform() -> None:
    x = segments("circle", 20, train=120_000).train.images.flatten(1).double()
    place = (x.norm(dim=1) * 1.2).frac()
    # A normal of deviation 1/2 cut off at +-1 has variance 1/4 - (phi(1)) / (2 (2 Phi(1) - 1)).
    phi = math.exp(-0.5) / math.sqrt(2 * math.pi)
    variance = 0.25 * (1 - 2 * phi / math.erf(1 / math.sqrt(2)))
    assert float(place.mean()) == pytest.approx(0.5, abs=0.003)
    assert float(place.var()) == pytest.approx(variance, rel=0.02)
    angle = torch.atan2(x[:, 1], x[:, 0])
    assert torch.histc(angle, 12).std() < 500


def test_seeds_repeat_and_are_their_own() -> None:
    state = torch.get_rng_state()
    one, two, other = segments("circle", 20), segments("circle", 20), segments("circle", 20, seed=1)
    assert torch.equal(one.train.images, two.train.images)
    assert not torch.equal(one.train.images, other.train.images)
    assert not set(map(tuple, one.train.images.flatten(1).tolist())) & set(
        map(tuple, one.test.images.flatten(1).tolist())
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_loaders_normalise_them() -> None:
    data = load("circle-20")
    x, y = next(iter(BatchLoader(data.train, 12_000, data.mean, data.std)))
    assert x.shape == (12_000, 2, 1, 1)
    torch.testing.assert_close(x.mean(0).flatten(), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0).flatten(), torch.ones(2), atol=1e-4, rtol=0)
    assert set(y.tolist()) == {0, 1}


def test_a_network_trains_on_them() -> None:
    data = segments("linear", 2, train=1200, test=120)
    torch.manual_seed(0)
    model = create_model("dense_mlp", num_classes=2, input_size=1, in_channels=2, depth=4, links=4)
    recipe = load_recipe("demo", epochs=6, lr=0.05, crop_padding=0, flip=False, val_count=120, batch_size=60)
    result = fit(model, data, recipe, progress=False)
    assert result.test_accuracy > 0.95
    assert evaluate(model, "test", data)[1] == result.test_accuracy


def test_they_are_listed_and_found() -> None:
    assert list_datasets("circle*") == ["circle-20", "circle-30", "circle-40"]
    assert locate("linear-33") == "made when loaded"
    assert load("linear-33").name == "linear-33"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: segments("square"), "shape must be 'linear' or 'circle'; got 'square'"),
        (lambda: segments("circle", 1), "count must be a whole number from 2 to 120; got 1"),
        (lambda: segments("circle", 20, train=100), "train must be a multiple of 120, the number of bins; got 100"),
        (lambda: load("linear-500"), "count must be a whole number from 2 to 120; got 500"),
        (lambda: load("linear-20", image_size=4), "load('linear-20') makes points, not images: leave image_size=4 out"),
    ],
)
def test_wrong_uses(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PrecutError) as raised:
        call()
    assert message in str(raised.value)
