"""Pictures that stay on disk."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.makers import encode, picture_folder, random_images
from precut.data import Augment, BatchLoader, LazySplit, load
from precut.data._lazy import random_part
from precut.errors import PrecutError


class Memory:
    """Picture files in memory that count how often they are read."""

    def __init__(self, pictures: list[bytes]) -> None:
        self.pictures = pictures
        self.reads = 0
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> bytes:
        with self.lock:
            self.reads += 1
        return self.pictures[index]

    def where(self, index: int) -> str:
        return f"picture {index}"


def smooth(width: int, height: int, seed: int) -> np.ndarray:
    """A picture without fine detail, so that two ways of resampling it agree."""
    small = random_images(1, 3, 4, seed)[0].transpose(1, 2, 0)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def split(count: int = 20, size: int = 28, threads: int | None = 2) -> tuple[LazySplit, Memory]:
    memory = Memory([encode(smooth(60 + i, 50, i)) for i in range(count)])
    return LazySplit(memory, torch.arange(count) % 4, size, 3, "toy", threads), memory


def test_evaluation_takes_the_centre_of_the_resized_picture():
    wide = smooth(80, 64, 1)
    memory = Memory([encode(wide), encode(wide.transpose(0, 2, 1))])
    (images,) = LazySplit(memory, torch.tensor([0, 0]), 28).stream([torch.arange(2)])
    # 64 to 32 pixels, 256/224 of 28, and 28 of 40 and of 32 from the middle
    picture = Image.fromarray(wide.transpose(1, 2, 0)).resize((40, 32), Image.Resampling.BILINEAR)
    expected = np.asarray(picture.crop((6, 2, 34, 30))).transpose(2, 0, 1).astype(int)
    assert np.abs(images[0].numpy() - expected).max() <= 1
    assert np.abs(images[1].numpy().transpose(0, 2, 1) - expected).max() <= 1


@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    drawn=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    smallest=st.floats(0.05, 1),
)
@settings(max_examples=200, deadline=None)
def test_a_random_part_lies_in_the_picture_and_has_the_area_that_was_drawn(width, height, drawn, smallest):
    left, top, right, bottom = random_part((width, height), drawn, (smallest, 1.0))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across, down = right - left, bottom - top
    area = width * height * (smallest + drawn[0] * (1 - smallest))
    assert across * down <= (area**0.5 + 1) ** 2 * 1.2
    if across < width and down < height and min(across, down) >= 20:  # not narrowed to fit
        assert across * down == pytest.approx(area, rel=0.06)
        assert 3 / 4 * 0.94 <= across / down <= 4 / 3 * 1.06


def test_a_part_of_everything_is_the_whole_picture():
    lazy, _ = split(2)
    (images,) = lazy.stream([torch.arange(2)], torch.tensor([[1.0, 0.5, 0.3, 0.9]] * 2), (0.08, 1.0))
    # aspect ratio 1 of the area of 60x50 is 55x55, narrowed to a height of 50
    picture = Image.fromarray(smooth(60, 50, 0).transpose(1, 2, 0))
    expected = picture.resize((28, 28), Image.Resampling.BILINEAR, box=(5, 0, 60, 50))
    assert np.array_equal(images[0].numpy(), np.asarray(expected).transpose(2, 0, 1))


def test_large_jpegs_are_decoded_small_and_look_the_same():
    big = smooth(800, 640, 3)
    draws = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    results = []
    for kind in ("JPEG", "PNG"):
        memory = Memory([encode(big, kind, **({"quality": 98} if kind == "JPEG" else {}))])
        results += LazySplit(memory, torch.tensor([0]), 64).stream([torch.tensor([0])], draws, (0.5, 1.0))
    assert (results[0].int() - results[1].int()).abs().float().mean() < 2


def epoch(loader: BatchLoader) -> torch.Tensor:
    return torch.cat([images for images, _ in loader])


def test_a_loader_takes_it_like_a_split_in_memory():
    lazy, _ = split()
    augment = Augment(flip=True, cutout=5, area=(0.1, 1.0))

    def loader(batch: int = 6, **options: int) -> BatchLoader:
        return BatchLoader(lazy, batch, (0.5,) * 3, (0.25,) * 3, augment, shuffle=True, **({"seed": 3} | options))

    first = epoch(loader())
    assert first.shape == (20, 3, 28, 28)
    assert first.dtype == torch.float32
    assert len(loader()) == 4
    assert torch.equal(epoch(loader()), first)
    assert torch.equal(epoch(loader(batch=20)), first)
    assert not torch.equal(epoch(loader(epoch=1)), first)
    order = loader().order()
    assert torch.equal(torch.cat([labels for _, labels in loader()]), lazy.labels[order])


def test_only_a_few_batches_are_decoded_ahead_and_a_loader_may_be_left_early():
    lazy, memory = split(count=40, threads=2)
    before = threading.active_count()
    for _ in BatchLoader(lazy, 4, (0.5,) * 3, (0.25,) * 3):
        assert threading.active_count() > before
        break
    assert memory.reads <= 4 * 4
    assert threading.active_count() == before


def test_subsets_read_their_own_pictures():
    lazy, _ = split(6)
    (every,) = lazy.stream([torch.arange(6)])
    part = lazy.subset(torch.tensor([4, 1, 3])).subset(torch.tensor([2, 0]))
    (images,) = part.stream([torch.arange(2)])
    assert torch.equal(images, every[[3, 4]])
    assert part.labels.tolist() == [3, 0]


def test_a_folder_loaded_lazily(tmp_path):
    images = random_images(12, 3, 16)
    picture_folder(tmp_path / "imagenet" / "train", images)
    picture_folder(tmp_path / "imagenet" / "val", images[:3])
    data = load("imagenet", root=tmp_path, image_size=8)
    assert isinstance(data.train, LazySplit)
    assert data.image_shape == (3, 8, 8)
    assert load("imagenet", root=tmp_path).image_shape == (3, 224, 224)
    train, validation = data.split_validation(3)
    assert validation.labels.tolist() == [0, 1, 2]
    assert len(train) == 9
    assert len(data.take(2).train) == 6
    (batch,) = BatchLoader(data.test, 8, data.mean, data.std)
    assert batch[0].shape == (3, 3, 8, 8)
    own = load(tmp_path / "imagenet", lazy=True, image_size=16)
    assert own.mean == pytest.approx((images / 255).mean((0, 2, 3)), abs=0.05)


def test_wrong_uses(tmp_path):
    lazy, memory = split(4)
    memory.pictures[2] = b"nothing"
    with pytest.raises(PrecutError) as error:
        list(lazy.stream([torch.arange(4)]))
    assert str(error.value) == "picture 2: not a picture file that Pillow knows (7 bytes)"
    with pytest.raises(PrecutError) as error:
        lazy.subset(torch.tensor([], dtype=torch.int64))
    assert str(error.value) == "toy: the split is empty; expected at least one image"
    lazy, _ = split(4, threads=0)
    with pytest.raises(PrecutError) as error:
        list(lazy.stream([torch.arange(4)]))
    assert str(error.value) == "threads=0; expected at least 1"
    picture_folder(tmp_path / "train", random_images(3))
    picture_folder(tmp_path / "test", random_images(3))
    with pytest.raises(PrecutError) as error:
        load(tmp_path, lazy=True)
    assert str(error.value) == (
        f"load({str(tmp_path)!r}, lazy=True) needs image_size=, the side of the images in pixels"
    )
