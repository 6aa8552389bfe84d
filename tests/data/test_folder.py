"""Folders of pictures, and Tiny-ImageNet as a folder and as an archive."""

from __future__ import annotations

import io
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.makers import encode, picture_folder, random_images, tiny_imagenet
from precut.data import load
from precut.errors import PrecutError

IMAGES = random_images(9)


def test_a_folder_a_class(tmp_path):
    picture_folder(tmp_path / "train", IMAGES)
    picture_folder(tmp_path / "val", IMAGES[:3])
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / ".hidden").mkdir()
    data = load(tmp_path)
    assert data.classes == ["ant", "bee", "cow"]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.array_equal(data.train.images.numpy(), IMAGES[[0, 3, 6, 1, 4, 7, 2, 5, 8]])
    assert np.array_equal(data.test.images.numpy(), IMAGES[:3])


def test_a_split_that_lacks_a_class_keeps_the_labels_of_the_training_split(tmp_path):
    picture_folder(tmp_path / "train", IMAGES)
    picture_folder(tmp_path / "test", IMAGES[:2], classes=("bee", "cow"))
    assert load(tmp_path).test.labels.tolist() == [1, 2]


def test_pictures_may_lie_deeper(tmp_path):
    for name in ("ant", "bee"):
        picture_folder(tmp_path / name, IMAGES[:2], classes=("images",))
    data = load(tmp_path, test_fraction=0.5)
    assert sorted(data.train.labels.tolist()) == sorted(data.test.labels.tolist()) == [0, 1]


def test_without_a_test_split_a_part_is_held_out(tmp_path):
    picture_folder(tmp_path, random_images(30))
    data = load(tmp_path, test_fraction=0.2)
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    assert data.train.labels.bincount().tolist() == [8, 8, 8]
    seen = {image.numpy().tobytes() for split in (data.train, data.test) for image in split.images}
    assert len(seen) == 30
    assert data.mean == pytest.approx((data.train.images.double() / 255).mean((0, 2, 3)).tolist())


def test_wrong_folders(tmp_path):
    train, test = tmp_path / "train", tmp_path / "test"
    picture_folder(train, IMAGES)
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: no test split (test, val, valid or validation) in this folder; add one, or pass "
        "test_fraction=0.2 to hold out a part of every class"
    )
    test.mkdir()
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == f"{test}: no folders in it; expected one a class, with pictures"
    picture_folder(test, IMAGES, classes=("ant", "beee"))
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == f"{test}/beee: unknown class 'beee': did you mean 'bee'?"
    shutil.rmtree(test / "beee")
    (train / "dog").mkdir()
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == f"{train}/dog: no pictures in this class"
    (train / "dog").rmdir()
    shutil.rmtree(train / "cow")
    with pytest.raises(PrecutError) as error:
        load(tmp_path, test_fraction=0.5)
    assert str(error.value) == (f"load got test_fraction=0.5, but {tmp_path} has a test split; leave it out")
    shutil.rmtree(train)
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == f"{tmp_path}: no training split (train) in this folder"


@pytest.mark.parametrize("lazy", [False, True])
def test_a_damaged_picture_is_named(tmp_path, lazy):
    picture_folder(tmp_path / "train", IMAGES, kind="JPEG")
    picture_folder(tmp_path / "test", IMAGES, kind="JPEG")
    bad = tmp_path / "train" / "bee" / "0004.jpeg"
    bad.write_bytes(bad.read_bytes()[:-200])
    with pytest.raises(PrecutError) as error:
        load(tmp_path, lazy=lazy, image_size=8)
    assert str(error.value).startswith(f"{bad}: damaged picture (")
    assert "truncated" in str(error.value).lower()


def test_pictures_of_many_sizes_need_one(tmp_path):
    picture_folder(tmp_path / "train", IMAGES)
    picture_folder(tmp_path / "test", IMAGES)
    odd = tmp_path / "train" / "cow" / "odd.png"
    odd.write_bytes(encode(random_images(1, 3, 12)[0]))
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{odd}: 12x12 pixels, but {tmp_path}/train/ant/0000.png has 8x8; pass image_size= to bring all to one size"
    )
    assert load(tmp_path, image_size=10).image_shape == (3, 10, 10)
    odd.unlink()
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(encode(random_images(1, 3, 12)[0]))
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: test images of 12x12, training images of 8x8; pass image_size= to bring all to one size"
    )


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("packed", [False, True])
def test_tiny_imagenet(tmp_path, packed):
    folder = tiny_imagenet(tmp_path / "source" / "tiny-imagenet-200")
    root = folder.parent
    if packed:
        root = tmp_path / "packed"
        root.mkdir()
        with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder.parent))
    data = load("tiny-imagenet", root=root)
    assert data.classes == ["n001", "n002"]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [1, 0, 1, 0]  # from the annotations: n002, n001, n002, n001
    assert np.array_equal(data.train.images[4].numpy(), pixels(folder / "train/n002/images/n002_1.JPEG"))
    assert np.array_equal(data.test.images[2].numpy(), pixels(folder / "val/images/val_2.JPEG"))


def test_wrong_tiny_imagenets(tmp_path):
    folder = tiny_imagenet(tmp_path / "tiny-imagenet-200")
    annotations = folder / "val" / "val_annotations.txt"
    lines = annotations.read_text().splitlines()

    def message() -> str:
        with pytest.raises(PrecutError) as error:
            load("tiny-imagenet", root=tmp_path)
        return str(error.value)

    annotations.write_text("\n".join([lines[0], "val_1.JPEG\tzebra\t0\t0\t7\t7"]))
    assert message() == f"{annotations}, line 2: unknown class 'zebra': choose one of 'n001', 'n002'"
    annotations.write_text("val_0.JPEG n001")
    assert message() == (f"{annotations}, line 1: 'val_0.JPEG n001'; expected a file and its class, with a tab between")
    annotations.write_text("")
    assert message() == f"{annotations}: the split is empty; expected a line a picture"
    annotations.write_text("gone.JPEG\tn001\n")
    assert message() == f"{folder}/val/images/gone.JPEG: cannot be read (No such file or directory)"
    annotations.unlink()
    assert message() == f"{annotations}: cannot be read (No such file or directory)"
    annotations.write_text(lines[0])
    shutil.rmtree(folder / "train" / "n001")
    assert message() == f"{folder}/train/n001: missing, and wnids.txt names this class"
    (folder / "wnids.txt").write_text("")
    assert message() == f"{folder}/wnids.txt: names no class"


def test_a_damaged_zip_is_named(tmp_path):
    path = tmp_path / "tiny-imagenet-200.zip"
    path.write_bytes(b"PK nothing")
    with pytest.raises(PrecutError) as error:
        load("tiny-imagenet", root=tmp_path)
    assert str(error.value) == f"{path}: damaged archive (File is not a zip file)"


def test_the_real_tiny_imagenet_sample(real_root):
    place = real_root / "tiny-imagenet-200-sample"
    if not place.is_dir():
        pytest.skip("no sample of Tiny-ImageNet there")
    data = load(place)
    wnids = sorted((place / "wnids.txt").read_text().split())
    assert data.classes == wnids
    assert data.image_shape == (3, 64, 64)
    lines = [line.split("\t") for line in (place / "val" / "val_annotations.txt").read_text().splitlines()]
    assert data.test.labels.tolist() == [wnids.index(fields[1]) for fields in lines]
    assert np.array_equal(data.test.images[1].numpy(), pixels(place / "val" / "images" / lines[1][0]))
    assert len(set(data.test.labels.tolist())) == len(wnids)


def test_corrected_labels_of_tiny_imagenet_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tiny_imagenet(tmp_path / "tiny-imagenet-200")
    before = load(folder).test.labels.tolist()
    file = folder / "val" / "val_annotations.txt"
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    swap = {"n001": "n002", "n002": "n001"}
    file.write_text("\n".join("\t".join([name, swap[wnid], *rest]) for name, wnid, *rest in lines) + "\n")
    assert load(folder).test.labels.tolist() == [1 - label for label in before]
