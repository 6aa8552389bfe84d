"""Augmentation against numpy's padding and slicing, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.data import Augment


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    mode=st.sampled_from(["reflect", "zeros"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_crop_is_a_true_window_of_the_padded_image(height, width, channels, padding, flip, mode, seed):
    if mode == "reflect":
        padding = min(padding, height - 1, width - 1)
    augment = Augment(crop_padding=padding, flip=flip, pad_mode=mode)
    images = torch.randint(256, (7, channels, height, width), dtype=torch.uint8, generator=generator(seed))
    draws = augment.draw(7, height, width, generator(seed + 1))
    result = augment.crop_and_flip(images, draws)
    assert result.dtype == torch.uint8
    for i, image in enumerate(images.numpy()):
        sides = ((0, 0), (padding, padding), (padding, padding))
        expected = np.pad(image, sides, mode="reflect" if mode == "reflect" else "constant")
        if padding:
            top, left = int(draws.top[i]), int(draws.left[i])
            expected = expected[:, top : top + height, left : left + width]
        if flip and draws.flip[i]:
            expected = expected[:, :, ::-1]
        assert np.array_equal(result[i].numpy(), expected)


@given(size=st.integers(1, 9), length=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_cutout_blanks_one_square_around_its_centre(size, length, seed):
    augment = Augment(cutout=length)
    draws = augment.draw(5, size, size, generator(seed))
    result = augment.cut_out_(torch.ones(5, 2, size, size), draws)
    for i in range(5):
        expected = np.ones((size, size))
        top, left = int(draws.cut_row[i]) - length // 2, int(draws.cut_column[i]) - length // 2
        expected[max(0, top) : max(0, top + length), max(0, left) : max(0, left + length)] = 0
        assert np.array_equal(result[i, 0].numpy(), expected)
        assert np.array_equal(result[i, 1].numpy(), expected)


def test_every_window_and_both_flips_are_drawn_about_equally_often():
    draws = Augment(crop_padding=4, flip=True, cutout=3).draw(40_000, 32, 32, generator(0))
    counts = torch.bincount(draws.top * 9 + draws.left, minlength=81)
    assert len(counts) == 81
    # each count is binomial(40000, 1/81): 494 on average, standard deviation 22
    assert counts.min() > 494 - 5 * 22
    assert counts.max() < 494 + 5 * 22
    assert abs(draws.flip.float().mean() - 0.5) < 0.0125
    assert set(draws.cut_row.tolist()) == set(draws.cut_column.tolist()) == set(range(32))


def test_nothing_is_drawn_for_what_is_off():
    draws = Augment().draw(3, 8, 8, generator(0))
    assert (draws.top, draws.left, draws.flip, draws.cut_row, draws.cut_column, draws.area) == (None,) * 6
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(Augment().crop_and_flip(images, draws), images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_padding": -1}, "crop_padding (pixels) must be a whole number of at least 0; got -1"),
        ({"crop_padding": 1.5}, "crop_padding (pixels) must be a whole number of at least 0; got 1.5"),
        ({"cutout": True}, "cutout (pixels) must be a whole number of at least 0; got True"),
        ({"pad_mode": "reflekt"}, "unknown pad_mode 'reflekt': did you mean 'reflect'?"),
        ({"pad_mode": "black"}, "unknown pad_mode 'black': choose one of 'reflect', 'zeros'"),
        (
            {"area": (0.5, 0.1)},
            "Augment got area=(0.5, 0.1); expected (smallest, largest) with 0 < smallest <= largest <= 1",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    from precut.errors import PrecutError

    with pytest.raises(PrecutError) as error:
        Augment(**arguments)
    assert str(error.value) == message
