import pytest
import torch
from torch import nn

from precut.training import Recipe
from precut.training._ema import WeightAverage
from training.toy import same, toy_model, weights


def scalar_model(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_ema_is_the_weighted_sum() -> None:
    model = scalar_model(1.0)
    average = WeightAverage(model, Recipe(average="ema", average_decay=0.2), steps=5)
    expected = 1.0
    for step, value in enumerate([2.0, 3.0, 5.0, 7.0, 11.0]):
        nn.init.constant_(model.weight, value)
        average.update(step)
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert average.tensors["weight"].item() == pytest.approx(expected)
        assert model.weight.item() == value


def test_updates_only_every_so_many_steps() -> None:
    model = scalar_model(0.0)
    average = WeightAverage(model, Recipe(average="ema", average_decay=0.5, average_every=3), steps=9)
    seen = []
    for step in range(6):
        nn.init.constant_(model.weight, 1.0)
        average.update(step)
        seen.append(average.tensors["weight"].item())
    # decay 0.5 ** 3 from the second update on; the first is capped at 1/10
    assert seen == pytest.approx([0, 0, 0.9, 0.9, 0.9, 1 - 0.1 * 0.125])


def test_lookahead_pulls_the_weights_back() -> None:
    model = scalar_model(1.0)
    average = WeightAverage(model, Recipe(average="lookahead", average_decay=0.5, average_every=2), steps=4)
    nn.init.constant_(model.weight, 2.0)
    average.update(0)
    assert model.weight.item() == 2.0
    average.update(1)
    decay = 0.25 * 0.5**3
    assert model.weight.item() == average.tensors["weight"].item() == pytest.approx(decay * 1 + (1 - decay) * 2)


def test_statistics_are_averaged_and_counters_are_not() -> None:
    model = toy_model()
    average = WeightAverage(model, Recipe(average="ema", average_decay=0.5), steps=10)
    before = model[1].running_mean.clone()
    model(torch.randn(4, 3, 8, 8))
    average.update(20)
    torch.testing.assert_close(average.tensors["1.running_mean"], (before + model[1].running_mean) / 2)
    assert "1.num_batches_tracked" not in average.tensors


def test_applied_gives_everything_back() -> None:
    model = toy_model()
    average = WeightAverage(model, Recipe(average="ema"), steps=10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    own, kept = weights(model), {name: tensor.clone() for name, tensor in average.tensors.items()}
    pointer = model[0].weight.data_ptr()
    with average.applied():
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in kept.items())
    assert same(weights(model), own)
    assert same(average.tensors, kept)
    assert model[0].weight.data_ptr() == pointer
