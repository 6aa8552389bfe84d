"""Splits, and class-balanced parts of them."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.data import Dataset, Split, load
from precut.errors import PrecutError


def dataset(labels: list[int], classes: int = 3) -> Dataset:
    """Image i has the value i in every pixel."""
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    train = Split(images, torch.tensor(labels), "toy train")
    test = Split(torch.full((classes, 1, 2, 2), 255, dtype=torch.uint8), torch.arange(classes), "toy test")
    return Dataset("toy", train, test, [f"c{i}" for i in range(classes)], (0.5,), (0.5,))


def numbers(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=200), share=st.floats(0.01, 0.99), seed=st.integers(0, 50)
)
@settings(max_examples=60, deadline=None)
def test_a_validation_split_parts_the_training_split_class_by_class(labels, share, seed):
    data = dataset(labels, 5)
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    train, validation = data.split_validation(count, seed=seed)
    assert len(validation) == count
    assert sorted(numbers(train) + numbers(validation)) == list(range(len(labels)))
    for split in (train, validation):
        assert numbers(split) == sorted(numbers(split))  # the order of the images is kept
        assert split.labels.tolist() == [labels[i] for i in numbers(split)]
    for label in set(labels):
        quota = Fraction(labels.count(label) * count, len(labels))
        assert abs(validation.labels.tolist().count(label) - quota) < 1
    again = data.split_validation(count, seed=seed)[1]
    assert numbers(again) == numbers(validation)


def test_equal_classes_give_equally():
    _, validation = dataset([0, 1, 2] * 40).split_validation(fraction=0.25, seed=1)
    assert torch.bincount(validation.labels).tolist() == [10, 10, 10]
    assert validation.name == "toy validation"


def test_other_seeds_draw_other_images_and_never_of_the_test_split():
    data = dataset([0, 1, 2] * 40)
    test = data.test.images.clone()
    drawn = {tuple(numbers(data.split_validation(30, seed=seed)[1])) for seed in range(5)}
    assert len(drawn) == 5
    assert torch.equal(data.test.images, test)


def test_permuting_the_test_labels_changes_no_split():
    data = dataset([0, 1, 2] * 20)
    before = numbers(data.split_validation(9)[1])
    data.test.labels.copy_(data.test.labels.flip(0))
    assert numbers(data.split_validation(9)[1]) == before


def test_take():
    data = dataset([0, 1, 2] * 20)
    part = data.take(4, seed=3)
    assert torch.bincount(part.train.labels).tolist() == [4, 4, 4]
    assert part.train.labels.tolist() == [i % 3 for i in numbers(part.train)]
    assert numbers(data.take(4, seed=3).train) == numbers(part.train)
    assert numbers(data.take(4, seed=4).train) != numbers(part.train)
    assert len(part.test) == 3
    assert len(data.take(4, test_per_class=1).test) == 3
    assert (data.num_classes, data.image_shape) == (3, (1, 2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda data: data.split_validation(),
            "split_validation got count=None and fraction=None; expected exactly one of the two",
        ),
        (
            lambda data: data.split_validation(5, 0.1),
            "split_validation got count=5 and fraction=0.1; expected exactly one of the two",
        ),
        (
            lambda data: data.split_validation(30),
            "cannot hold out count=30 of the 30 images of toy train; expected between 1 and 29 images",
        ),
        (
            lambda data: data.split_validation(fraction=0.001),
            "cannot hold out fraction=0.001 of the 30 images of toy train; expected between 1 and 29 images",
        ),
        (lambda data: data.take(0), "take got 0 images a class; expected at least 1"),
        (
            lambda data: data.take(11),
            "take got 11 images a class, but toy train has 10 of class 'c0'; take at most 10",
        ),
        (
            lambda data: data.take(5, test_per_class=2),
            "take got 2 images a class, but toy test has 1 of class 'c0'; take at most 1",
        ),
        (
            lambda data: Split(torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)),
            "split: images are torch.float32 of shape (2, 1, 2, 2); expected torch.uint8 of shape (N, C, H, W)",
        ),
        (
            lambda data: Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "x"),
            "x: labels are torch.int64 of shape (3,); expected torch.int64 of shape (2,)",
        ),
        (
            lambda data: data.train.subset(torch.tensor([], dtype=torch.int64)),
            "toy train: the split is empty; expected at least one image",
        ),
    ],
)
def test_wrong_uses(call, message):
    with pytest.raises(PrecutError) as error:
        call(dataset([0, 1, 2] * 10))
    assert str(error.value) == message


def test_a_part_has_a_name_of_its_own():
    dataset = load("fashion-mnist-sample")
    assert dataset.take(3).name == "fashion-mnist-sample, 3 of each class"
