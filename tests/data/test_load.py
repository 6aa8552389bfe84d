"""Names, roots and paths; the bundled sample; what the formats have in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import precut.data
from data.makers import (
    cifar10_folder,
    encode,
    idx_folder,
    pack,
    parquet_folder,
    picture_folder,
    random_images,
    tiny_imagenet,
    write_parquet,
)
from precut.data import Augment, BatchLoader, Dataset, list_datasets, load
from precut.data._known import KNOWN
from precut.errors import PrecutError


def test_the_names():
    assert list_datasets() == [
        "cifar10", "cifar100", "circle-20", "circle-30", "circle-40", "fashion-mnist", "fashion-mnist-sample", "imagenet",
        "linear-20", "linear-30", "linear-40", "mnist", "tiny-imagenet",
    ]  # fmt: skip
    assert list_datasets("cifar*") == ["cifar10", "cifar100"]


@pytest.mark.parametrize("name", [name for name in KNOWN if not KNOWN[name].bundled])
def test_every_name_finds_parquet_in_every_place_that_it_names(tmp_path, name):
    known = KNOWN[name]
    images = random_images(4, known.channels, 6)
    for number, place in enumerate(place for place in known.places if "." not in place):
        root = tmp_path / str(number)
        parquet_folder(root / place, images, images[:2], classes=known.num_classes or 2)
        data = load(name, root=root, lazy=False, image_size=6)
        assert (len(data.train), len(data.test)) == (4, 2)
        assert data.num_classes == (known.num_classes or 2)
        assert (data.mean, data.std) == (known.mean, known.std)
        (batch,) = BatchLoader(data.train, 4, data.mean, data.std, Augment(1, True))
        assert batch[0].isfinite().all()


def test_the_same_images_come_from_every_format(tmp_path):
    """Parquet, both archives, packed and not, and folders: one dataset."""
    images, labels = cifar10_folder(tmp_path / "python" / "cifar-10-batches-py")
    cifar10_folder(tmp_path / "binary" / "cifar-10-batches-bin", binary=True)
    pack(tmp_path / "python" / "cifar-10-batches-py", tmp_path / "packed" / "cifar10" / "cifar-10-python.tar.gz")
    classes = [f"class{i}" for i in range(10)]
    folder = tmp_path / "folder" / "cifar10"
    for split in ("train", "test"):
        pictures = [encode(image) for image in images]
        write_parquet(tmp_path / "parquet" / "cifar10" / f"{split}.parquet", pictures, labels.tolist(), names=classes)
        picture_folder(folder / split, images, classes)
    for kind in ("python", "binary", "packed", "parquet", "folder"):
        data = load("cifar10", root=tmp_path / kind)
        assert data.classes == classes
        order = np.argsort(labels, kind="stable") if kind == "folder" else np.arange(len(labels))
        assert np.array_equal(data.train.images.numpy(), images[order]), kind
        assert data.train.labels.tolist() == labels[order].tolist()


def test_the_root_may_be_the_datasets_own_folder_or_come_from_the_environment(tmp_path, monkeypatch):
    folder = parquet_folder(tmp_path / "cifar10", random_images(4), random_images(2), classes=2)
    assert len(load("cifar10", root=folder).train) == 4
    monkeypatch.setenv("PRECUT_DATA", str(tmp_path))
    assert len(load("cifar10").train) == 4
    assert len(load("cifar10", cache=False).train) == 4
    parquet_folder(tmp_path / "mine", random_images(6), random_images(2), classes=2)
    assert len(load("mine").train) == 6  # a path below the root


def test_one_parquet_file_is_a_training_split(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [encode(image) for image in random_images(10)], [0, 1] * 5)
    data = load(path, test_fraction=0.2)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert sorted(data.test.labels.tolist()) == [0, 1]
    assert data.classes == ["0", "1"]


def test_a_constant_channel_has_a_finite_deviation(tmp_path):
    data = load(parquet_folder(tmp_path / "x", np.full((3, 1, 2, 2), 9, np.uint8), np.zeros((3, 1, 2, 2), np.uint8)))
    assert data.mean == pytest.approx((9 / 255,))
    assert data.std[0] > 0


def test_the_bundled_sample():
    data = load("fashion-mnist-sample")
    assert data.train.labels.bincount().tolist() == [1000] * 10
    assert data.test.labels.bincount().tolist() == [200] * 10
    assert data.image_shape == (1, 28, 28)
    assert data.classes[0] == "T-shirt/top"
    assert data.train.labels[:5].tolist() == [9, 0, 0, 3, 0]  # Fashion-MNIST begins so
    values = data.train.images.double() / 255
    assert float(values.mean()) == pytest.approx(data.mean[0], abs=0.01)
    assert float(values.std()) == pytest.approx(data.std[0], abs=0.01)
    train = {image.numpy().tobytes() for image in data.train.images}
    assert not any(image.numpy().tobytes() in train for image in data.test.images)


def test_what_lies_beside_the_bundled_sample():
    folder = Path(precut.data.__file__).parent / "samples" / "fashion-mnist"
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "README.md", "test.parquet", "train.parquet"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6_000_000
    assert "MIT" in (folder / "LICENSE").read_text()
    assert "dataset-fashion-mnist" in (folder / "README.md").read_text()


def test_importing_the_room_imports_no_reader_library():
    code = "import sys, precut.data; print([m for m in ('PIL', 'pyarrow', 'datasets', 'pandas') if m in sys.modules])"
    environment = {"PYTHONPATH": str(Path(precut.data.__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "[]", result.stderr


def wrong_uses() -> dict[str, tuple]:
    def grey_test(tmp_path: Path) -> Dataset:
        return load(parquet_folder(tmp_path / "x", random_images(3, 1), random_images(3, 3)))

    def two_vocabularies(tmp_path: Path) -> Dataset:
        for split, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
            write_parquet(tmp_path / f"{split}.parquet", [encode(random_images(1)[0])] * 2, [0, 1], names=names)
        return load(tmp_path)

    def three_of_ten(tmp_path: Path) -> Dataset:
        for split in ("train", "test"):
            picture_folder(tmp_path / "cifar10" / split, random_images(3))
        return load("cifar10", root=tmp_path)

    def too_few_names(tmp_path: Path) -> Dataset:
        return load(parquet_folder(tmp_path / "x", random_images(3), random_images(3), names=["a"]))

    def unknown_test_class(tmp_path: Path) -> Dataset:
        return load(parquet_folder(tmp_path / "x", random_images(2), random_images(3)))

    def lazy_parquet(tmp_path: Path) -> Dataset:
        parquet_folder(tmp_path / "imagenet", random_images(3), random_images(3))
        return load("imagenet", root=tmp_path)

    def no_dataset(tmp_path: Path) -> Dataset:
        (tmp_path / "x").mkdir()
        return load(tmp_path / "x")

    def idx_file(tmp_path: Path) -> Dataset:
        idx_folder(tmp_path)
        return load(tmp_path / "train-images-idx3-ubyte")

    def bad_root_variable(tmp_path: Path) -> Dataset:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PRECUT_DATA", str(tmp_path / "gone"))
            return load("cifar10")

    nothing = (
        "{tmp}: no dataset in it; expected train and test parts as parquet files or as folders with one folder "
        "a class, IDX files, or an official CIFAR or Tiny-ImageNet archive"
    )
    return {
        "a typo": (lambda tmp: load("cifar-10"), "unknown dataset 'cifar-10': did you mean 'cifar10'?"),
        "no such name": (
            lambda tmp: load("zzz"),
            "unknown dataset 'zzz': choose one of 'cifar10', 'cifar100', 'fashion-mnist', 'fashion-mnist-sample', "
            "'imagenet', 'mnist', 'tiny-imagenet'",
        ),
        "no such path": (
            lambda tmp: load(tmp / "gone"),
            "no file or folder '{tmp}/gone'; expected the path of a dataset or one of its names",
        ),
        "no such root": (
            lambda tmp: load("cifar10", root=tmp / "gone"),
            "root='{tmp}/gone' is not a folder; expected the one that holds the datasets",
        ),
        "no such root in the environment": (
            bad_root_variable,
            "PRECUT_DATA='{tmp}/gone' is not a folder; expected the one that holds the datasets",
        ),
        "image_size": (
            lambda tmp: load("fashion-mnist-sample", image_size=0),
            "load got image_size=0; expected at least 1 pixel",
        ),
        "image_size of another kind": (
            lambda tmp: load("fashion-mnist-sample", image_size="8"),
            "load got image_size='8'; expected at least 1 pixel",
        ),
        "test_fraction of another kind": (
            lambda tmp: load("fashion-mnist-sample", test_fraction="a"),
            "load got test_fraction='a'; expected a share between 0 and 1",
        ),
        "name of another kind": (lambda tmp: load(3), "load takes the name of a dataset or its path; got 3"),
        "channels": (
            lambda tmp: load("fashion-mnist-sample", channels=4),
            "load got channels=4; expected 1 (grey) or 3 (red, green, blue)",
        ),
        "test_fraction": (
            lambda tmp: load("fashion-mnist-sample", test_fraction=1.0),
            "load got test_fraction=1.0; expected a share between 0 and 1",
        ),
        "threads": (
            lambda tmp: load("fashion-mnist-sample", threads=0, cache=False),
            "threads=0; expected at least 1",
        ),
        "lazy sample": (
            lambda tmp: load("fashion-mnist-sample", lazy=True),
            "{samples}: a parquet cannot be decoded while training, as 'fashion-mnist-sample' is to be; unpack it into "
            "folders (train/<class>/...), or pass lazy=False to hold it in memory",
        ),
        "lazy parquet": (
            lazy_parquet,
            "{tmp}/imagenet: a parquet cannot be decoded while training, as 'imagenet' is to be; unpack it into "
            "folders (train/<class>/...), or pass lazy=False to hold it in memory",
        ),
        "colour in a grey test split": (
            grey_test,
            "{tmp}/x/test.parquet, row 0: a picture of mode 'RGB' where grey ones are expected; pass channels=3",
        ),
        "two vocabularies": (
            two_vocabularies,
            "{tmp}: the test split's classes are b, a, the training split's a, b; expected the same",
        ),
        "three of ten classes": (three_of_ten, "{tmp}/cifar10: 3 classes, but 'cifar10' has 10"),
        "too few names": (too_few_names, "{tmp}/x: label 2 among the training images, but 1 classes"),
        "unknown test class": (
            unknown_test_class,
            "{tmp}/x/test.parquet, row 2: label 2; expected a class number, 0 to 1",
        ),
        "an empty folder": (no_dataset, nothing.replace("{tmp}", "{tmp}/x")),
        "one IDX file": (idx_file, nothing.replace("{tmp}", "{tmp}/train-images-idx3-ubyte")),
    }


@pytest.mark.parametrize("case", wrong_uses())
def test_wrong_uses(case, tmp_path):
    use, message = wrong_uses()[case]
    with pytest.raises(PrecutError) as error:
        use(tmp_path)
    samples = Path(precut.data.__file__).parent / "samples" / "fashion-mnist"
    assert str(error.value) == message.format(tmp=tmp_path, samples=samples)


def test_a_large_folder_given_by_path_stays_on_disk(tmp_path, monkeypatch):
    folder = tiny_imagenet(tmp_path / "x")
    monkeypatch.setattr(sys.modules["precut.data._load"], "_IN_MEMORY", 6 * 3 * 7 * 7)
    assert isinstance(load(folder, image_size=7).train, precut.data.Split)
    assert isinstance(load(folder, image_size=8).train, precut.data.LazySplit)
    assert isinstance(load(folder).train, precut.data.Split)


def test_loaded_images_may_be_read_by_several_loaders(tmp_path):
    data = load(parquet_folder(tmp_path / "x", random_images(9), random_images(3)))
    again = load(tmp_path / "x")  # from the cache
    for one, other in ((data.train, again.train), (data.test, again.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert again.mean == data.mean
