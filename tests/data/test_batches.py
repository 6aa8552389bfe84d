"""The order of batches, what they depend on, and what is in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.data import Augment, BatchLoader, Split
from precut.errors import PrecutError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def numbered(count: int, size: int = 8, channels: int = 3) -> Split:
    """Image i is the only one with label i."""
    images = torch.randint(256, (count, channels, size, size), dtype=torch.uint8)
    return Split(images, torch.arange(count), "numbered")


def labels(loader: BatchLoader) -> list[int]:
    return [label for _, batch in loader for label in batch.tolist()]


def epoch(loader: BatchLoader) -> tuple[torch.Tensor, torch.Tensor]:
    images, numbers = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(numbers)


@given(count=st.integers(1, 60), batch=st.integers(1, 70), seed=st.integers(0, 99), number=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_an_epoch_gives_every_image_once(count, batch, seed, number):
    loader = BatchLoader(numbered(count, 2), batch, MEAN, STD, shuffle=True, seed=seed, epoch=number)
    assert sorted(labels(loader)) == list(range(count))
    assert len(loader) == len(list(loader)) == -(-count // batch)
    assert loader.num_images == count


def test_without_shuffling_the_order_is_the_splits_own():
    assert labels(BatchLoader(numbered(20), 7, MEAN, STD, seed=3, epoch=5)) == list(range(20))


def test_images_are_normalised_as_written():
    split = numbered(10)
    images, _ = epoch(BatchLoader(split, 4, MEAN, STD))
    expected = (split.images.numpy() / 255 - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images.numpy(), expected, rtol=0, atol=2e-6)


def test_labels_stay_with_their_images():
    split = numbered(30)
    images, numbers = epoch(BatchLoader(split, 8, (0, 0, 0), (1, 1, 1), shuffle=True, seed=1))
    assert torch.equal((images * 255).round().to(torch.uint8), split.images[numbers])


def test_seed_and_epoch_decide_everything():
    split = numbered(40)

    def once(**options):
        options = {"shuffle": True, "seed": 5, "epoch": 2} | options
        return epoch(BatchLoader(split, 16, MEAN, STD, Augment(2, True, 3), **options))

    images, numbers = once()
    torch.manual_seed(1234)  # the global state must not matter
    again, numbers_again = once()
    assert torch.equal(images, again)
    assert torch.equal(numbers, numbers_again)
    for other in ({"seed": 6}, {"epoch": 3}):
        assert not torch.equal(once(**other)[1], numbers)
    # the pair, not its sum: seed 5 in epoch 2 is not seed 6 in epoch 1
    assert not torch.equal(once(seed=6, epoch=1)[1], numbers)


def test_the_global_random_state_is_left_alone():
    split = numbered(9)
    before = torch.get_rng_state()
    labels(BatchLoader(split, 4, MEAN, STD, Augment(1, True, 2), shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_set_epoch_equals_a_loader_that_starts_there_and_iterating_again_repeats():
    split = numbered(25)
    loader = BatchLoader(split, 10, MEAN, STD, Augment(2, True), shuffle=True)
    first = epoch(loader)
    assert torch.equal(epoch(loader)[0], first[0])
    loader.set_epoch(4)
    fresh = BatchLoader(split, 10, MEAN, STD, Augment(2, True), shuffle=True, epoch=4)
    assert torch.equal(epoch(loader)[0], epoch(fresh)[0])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_happens_to_an_image_depends_on_neither_batch_size_nor_processes(world_size):
    split = numbered(24)
    images, numbers = epoch(BatchLoader(split, 24, MEAN, STD, Augment(2, True, 3), shuffle=True, seed=8))
    found = {int(number): image for image, number in zip(images, numbers, strict=True)}
    for rank in range(world_size):
        part = BatchLoader(
            split, 5, MEAN, STD, Augment(2, True, 3), shuffle=True, seed=8, rank=rank, world_size=world_size
        )
        for image, number in zip(*epoch(part), strict=True):
            assert torch.equal(image, found[int(number)])


@given(count=st.integers(8, 60), world_size=st.integers(1, 8), batch=st.integers(1, 9), shuffle=st.booleans())
@settings(max_examples=50, deadline=None)
def test_parts_of_processes(count, world_size, batch, shuffle):
    split = numbered(count, 2)
    parts = [
        labels(BatchLoader(split, batch, MEAN, STD, shuffle=shuffle, seed=2, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    every = [label for part in parts for label in part]
    assert len(set(every)) == len(every)  # disjoint
    if shuffle:
        assert {len(part) for part in parts} == {count // world_size}
    else:
        assert sorted(every) == list(range(count))


def test_processes_together_take_the_same_batches_as_one():
    split = numbered(24)
    whole = list(BatchLoader(split, 8, MEAN, STD, shuffle=True, seed=4))
    parts = [list(BatchLoader(split, 4, MEAN, STD, shuffle=True, seed=4, rank=rank, world_size=2)) for rank in (0, 1)]
    for step, (_, together) in enumerate(whole):
        apart = parts[0][step][1].tolist() + parts[1][step][1].tolist()
        assert sorted(apart) == sorted(together.tolist())


def test_drop_last():
    loader = BatchLoader(numbered(23), 5, MEAN, STD, shuffle=True, drop_last=True)
    assert [len(batch) for _, batch in loader] == [5] * 4
    assert len(loader) == 4
    assert loader.num_images == 20


def test_channels_last_is_only_another_layout():
    split = numbered(6)
    plain, _ = epoch(BatchLoader(split, 6, MEAN, STD, Augment(2, True, 2), seed=1))
    (images, _), *_ = BatchLoader(split, 6, MEAN, STD, Augment(2, True, 2), seed=1, memory_format=torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, plain)


def test_augmented_images_are_windows_of_their_own_images():
    split = numbered(12)
    images, numbers = epoch(BatchLoader(split, 5, (0,) * 3, (1,) * 3, Augment(2, True, pad_mode="zeros"), shuffle=True))
    for image, number in zip((images * 255).round().to(torch.uint8).numpy(), numbers.tolist(), strict=True):
        padded = np.pad(split.images[number].numpy(), ((0, 0), (2, 2), (2, 2)))
        windows = [padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        assert any(np.array_equal(image, side) for window in windows for side in (window, window[:, :, ::-1]))


def test_the_split_itself_is_never_written_to():
    split = numbered(10)
    before = split.images.clone()
    for images, _ in BatchLoader(split, 10, (0,) * 3, (1,) * 3, Augment(0, False, 3)):
        images.zero_()
    assert torch.equal(split.images, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "BatchLoader got batch_size=0; expected at least 1"),
        ({"rank": 2, "world_size": 2}, "BatchLoader got rank=2 with world_size=2; expected 0 <= rank < world_size"),
        (
            {"mean": (0.5,)},
            "BatchLoader got 1 values for mean, but numbered has 3 channels; expected one a channel",
        ),
        ({"std": (0.5, 0.0, 1.0)}, "BatchLoader got std=(0.5, 0.0, 1.0); expected values above 0"),
        (
            {"batch_size": 11, "drop_last": True},
            "BatchLoader gives no batch: numbered has 10 images for batch_size=11, world_size=1, drop_last=True; "
            "use smaller batches",
        ),
        (
            {"augment": Augment(crop_padding=8)},
            "Augment got crop_padding=8 with pad_mode='reflect' for images of 8x8; expected at most 7, "
            "or pad_mode='zeros'",
        ),
        (
            {"augment": Augment(area=(0.1, 1.0))},
            "BatchLoader got Augment(area=(0.1, 1.0)) for numbered, which is in memory at its final size; "
            "use crop_padding, or load it with lazy=True",
        ),
    ],
)
def test_wrong_arguments(options, message):
    options = {"split": numbered(10), "batch_size": 4, "mean": MEAN, "std": STD} | options
    with pytest.raises(PrecutError) as error:
        BatchLoader(**options)
    assert str(error.value) == message
