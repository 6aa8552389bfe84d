"""The CIFAR archives, and the unpickler that runs no code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from data.makers import cifar10_folder, pack, python2_batch, random_images
from precut.data import load
from precut.data._cifar import PickledArray, safe_unpickle
from precut.errors import PrecutError

FOLDERS = {False: "cifar-10-batches-py", True: "cifar-10-batches-bin"}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_official_archives(tmp_path, binary, packed):
    folder = tmp_path / "source" / FOLDERS[binary]
    images, labels = cifar10_folder(folder, binary=binary)
    if packed:
        pack(folder, tmp_path / "root" / f"cifar-10-{'binary' if binary else 'python'}.tar.gz")
        root = tmp_path / "root"
    else:
        root = tmp_path / "source"
    data = load("cifar10", root=root)
    assert np.array_equal(data.train.images.numpy(), images)
    assert data.train.labels.tolist() == labels.tolist()
    assert data.test.labels.tolist() == [0, 1, 2, 3]
    assert data.classes == [f"class{i}" for i in range(10)]
    assert data.mean == (0.4914, 0.4822, 0.4465)


@pytest.mark.parametrize("binary", [False, True])
def test_cifar100_takes_the_fine_labels(tmp_path, binary):
    folder = tmp_path / ("cifar-100-binary" if binary else "cifar-100-python")
    folder.mkdir()
    images = random_images(5, 3, 32).reshape(5, 3072)
    fine = [99, 3, 50, 0, 7]
    names = [f"fine{i}" for i in range(100)]
    for split in ("train", "test"):
        if binary:
            rows = [bytes((i, label)) + row.tobytes() for i, (label, row) in enumerate(zip(fine, images, strict=True))]
            (folder / f"{split}.bin").write_bytes(b"".join(rows))
        else:
            (folder / split).write_bytes(python2_batch(images, fine, b"fine_labels"))
    if binary:
        (folder / "fine_label_names.txt").write_text("\n".join(names))
    else:
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    data = load("cifar100", root=tmp_path)
    assert data.train.labels.tolist() == fine
    assert np.array_equal(data.train.images.numpy().reshape(5, 3072), images)
    assert data.classes == names


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_pickled_by_this_numpy_come_back(protocol, order):
    array = np.asarray(random_images(2, 3, 4).reshape(6, 16), order=order)
    batch = safe_unpickle(pickle.dumps({"data": array, "labels": [1, 2]}, protocol), "here")
    entry = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}["data"]
    assert np.array_equal(entry.to_numpy("here"), array)


def test_the_hand_written_pickle_is_one_that_numpy_reads():
    array = random_images(2, 3, 32).reshape(2, 3072)
    data = python2_batch(array, [4, 9])
    official = pickle.loads(data, encoding="bytes")
    assert np.array_equal(official[b"data"], array)
    ours = safe_unpickle(data, "here")
    assert ours[b"labels"] == official[b"labels"] == [4, 9]
    assert np.array_equal(ours[b"data"].to_numpy("here"), array)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {target}",)),
        (eval, ("open('{target}', 'w')",)),
        (open, ("{target}", "w")),
        (np.load, ("{target}",)),
        (getattr, (1, "real")),
        (Path, ("{target}",)),
    ],
)
def test_a_malicious_pickle_is_refused_before_it_does_anything(tmp_path, function, arguments, protocol):
    target = tmp_path / "pwned"
    call = Call(function, *(a.format(target=target) if isinstance(a, str) else a for a in arguments))
    data = pickle.dumps({b"data": call, b"labels": [0]}, protocol)
    with pytest.raises(PrecutError) as error:
        safe_unpickle(data, "batch")
    assert not target.exists()
    named = f"{function.__module__}.{function.__qualname__}"
    found = str(error.value).replace("__builtin__", "builtins")  # Python 2's name, which old protocols have
    assert found == f"batch: refused to unpickle (it names {named}, and only numpy arrays are allowed)"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93.",  # a bare stand-in, no array
        b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__class__\x93.",  # a dotted name
        b"cnumpy.core.multiarray\nscalar\n.",
        b"ccopyreg\n_reconstructor\n.",
        b"\x82\x01.",  # an extension code
        b"Pid\n.",  # a persistent id
        b"",
        b"\x80\x02}(U",
        b"garbage",
    ],
)
def test_odd_pickles_are_refused(tmp_path, data):
    folder = tmp_path / "cifar-10-batches-py"
    cifar10_folder(folder)
    (folder / "data_batch_2").write_bytes(data)
    with pytest.raises(PrecutError) as error:
        load("cifar10", root=tmp_path)
    assert str(error.value).startswith(f"{folder}: data_batch_2: ")


def test_object_arrays_and_lying_shapes_are_refused():
    for state in [(1, (1,), object(), False, [print]), (1, (7,), None, False, b"x"), (1, (2**62, 4), None, False, b"")]:
        array = PickledArray()
        array.__setstate__(state)
        with pytest.raises(PrecutError, match=r"^b: the pickled array is damaged or not of unsigned bytes$"):
            array.to_numpy("b")
    wide = safe_unpickle(pickle.dumps(np.zeros(3, np.int32)), "b")
    with pytest.raises(PrecutError, match=r"^b: the pickled array is damaged or not of unsigned bytes$"):
        wide.to_numpy("b")


def test_a_missing_batch_is_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    cifar10_folder(folder)
    (folder / "data_batch_3").unlink()
    archive = pack(folder, tmp_path / "packed" / "cifar-10-python.tar.gz")
    for place in (folder, archive):
        with pytest.raises(PrecutError) as error:
            load("cifar10", root=place.parent)
        assert str(error.value) == f"{place}: the file data_batch_3 is missing"


def test_damaged_archives_are_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    cifar10_folder(folder, binary=True)
    archive = pack(folder, tmp_path / "cifar-10-binary.tar.gz")
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"hello", whole[:2000] + bytes(100) + whole[2100:]):
        archive.write_bytes(damaged)
        with pytest.raises(PrecutError) as error:
            load(archive)
        assert str(error.value).startswith(f"{archive}: damaged archive (")
    (folder / "data_batch_1.bin").write_bytes(b"\0" * 3074)
    with pytest.raises(PrecutError) as error:
        load(folder)
    assert str(error.value) == f"{folder}: data_batch_1.bin: 3074 bytes; expected a multiple of 3073"


def test_an_unknown_class_is_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    cifar10_folder(folder)
    (folder / "data_batch_4").write_bytes(python2_batch(np.zeros((3, 3072), np.uint8), [1, 2, 10]))
    with pytest.raises(PrecutError) as error:
        load("cifar10", root=tmp_path)
    assert str(error.value) == f"{folder}: data_batch_4, row 2: label 10; expected a class number, 0 to 9"


def test_wrong_contents_are_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    cifar10_folder(folder)
    where = f"{folder}: data_batch_1"
    cases = {
        pickle.dumps([1, 2]): f"{where}: a pickled list; expected a dict",
        pickle.dumps({"data": 1}): f"{where}: expected an array 'data' and a list 'labels' in the pickled dict",
        python2_batch(np.zeros((2, 300), np.uint8), [0, 1]): (
            f"{where}: data of shape (2, 300) for 2 labels; expected (n, 3072)"
        ),
        python2_batch(np.zeros((2, 3072), np.uint8), [0]): (
            f"{where}: data of shape (2, 3072) for 1 labels; expected (n, 3072)"
        ),
    }
    for content, message in cases.items():
        (folder / "data_batch_1").write_bytes(content)
        with pytest.raises(PrecutError) as error:
            load(folder)
        assert str(error.value) == message
