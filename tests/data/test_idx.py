"""The IDX reader."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from data.makers import idx_folder, write_idx
from precut.data import load
from precut.data._idx import find, read_idx
from precut.errors import PrecutError


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_in_idx_files(tmp_path, suffix):
    images, labels = idx_folder(tmp_path / "MNIST" / "raw", suffix)
    data = load("mnist", root=tmp_path)
    assert np.array_equal(data.train.images[:, 0].numpy(), images)
    assert data.train.labels.tolist() == labels.tolist()
    assert data.classes == list("0123456789")
    assert (data.mean, data.std) == ((0.1307,), (0.3081,))
    colour = load("mnist", root=tmp_path, channels=3, image_size=8)
    assert colour.image_shape == (3, 8, 8)
    assert len(colour.mean) == 3


def test_names_with_a_dot(tmp_path):
    images, _ = idx_folder(tmp_path)
    for path in list(tmp_path.glob("*-idx*")):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert np.array_equal(load(tmp_path).train.images[:, 0].numpy(), images)


def test_damaged_files_are_named(tmp_path):
    plain = write_idx(tmp_path / "a", np.zeros((2, 3)))
    data = plain.read_bytes()
    packed = tmp_path / "b.gz"
    cases = [
        (plain, b"hello, world", 2, "starts with 68 65 6c 6c; expected 00 00 08 02, an IDX file of bytes"),
        (plain, data[:3], 2, "starts with 00 00 08; expected 00 00 08 02, an IDX file of bytes"),
        (plain, data, 3, "starts with 00 00 08 02; expected 00 00 08 03, an IDX file of bytes"),
        (
            plain,
            data[:4] + b"\xff" * 8 + data[12:],
            2,
            f"6 bytes of values; its header says {2**32 - 1}x{2**32 - 1} = {(2**32 - 1) ** 2}",
        ),
        (plain, data[:-1], 2, "5 bytes of values; its header says 2x3 = 6"),
        (plain, data + b"xx", 2, "more than 6 bytes of values; its header says 2x3 = 6"),
        (packed, data, 2, "cannot be read (Not a gzipped file (b'\\x00\\x00'))"),
        (
            packed,
            gzip.compress(data)[:-9],
            2,
            "cannot be read (Compressed file ended before the end-of-stream marker was reached)",
        ),
    ]
    for path, content, axes, message in cases:
        path.write_bytes(content)
        with pytest.raises(PrecutError) as error:
            read_idx(path, axes)
        assert str(error.value) == f"{path}: {message}"


def test_files_that_do_not_fit_together(tmp_path):
    idx_folder(tmp_path)
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    write_idx(labels, np.zeros(19))
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == f"{images}: 20 images, but {labels} has 19 labels"
    labels.unlink()
    with pytest.raises(PrecutError) as error:
        find(tmp_path)
    assert str(error.value) == f"{tmp_path}: train-labels-idx1-ubyte (or .gz) is missing beside {images}"


def test_an_unknown_class_is_named(tmp_path):
    _, labels = idx_folder(tmp_path / "mnist")
    labels[13] = 77
    path = write_idx(tmp_path / "mnist" / "train-labels-idx1-ubyte", labels)
    with pytest.raises(PrecutError) as error:
        load("mnist", root=tmp_path)
    assert str(error.value) == f"{path}, row 13: label 77; expected a class number, 0 to 9"


def test_an_empty_split_is_named(tmp_path):
    idx_folder(tmp_path)
    images = write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((0, 6, 6)))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(0))
    with pytest.raises(PrecutError) as error:
        load(tmp_path)
    assert str(error.value) == f"{images}: no images; expected at least one"
