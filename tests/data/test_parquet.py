"""The parquet reader: what it takes, and what it says of what it does not take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.makers import encode, parquet_folder, random_images, write_parquet
from precut.data import load
from precut.data._parquet import ParquetPart, find
from precut.data._source import Wanted
from precut.errors import PrecutError

IMAGES = random_images(10, 3, 8)
PICTURES = [encode(image) for image in IMAGES]
LABELS = [i % 3 for i in range(10)]


@pytest.mark.parametrize(
    ("image", "label", "plain"), [("img", "label", False), ("image", "fine_label", False), ("photo", "labels", True)]
)
def test_rows_come_back_as_they_were_written(tmp_path, image, label, plain):
    path = write_parquet(tmp_path / "x.parquet", PICTURES, LABELS, image, label, plain=plain)
    loaded = ParquetPart((path,)).load(Wanted())
    assert np.array_equal(loaded.images.numpy(), IMAGES)
    assert loaded.labels.tolist() == LABELS
    assert loaded.classes is None


def test_class_names_come_from_the_schema(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", PICTURES, LABELS, names=["a", "b", "c"])
    assert ParquetPart((path,)).load(Wanted()).classes == ("a", "b", "c")


def test_many_rows_on_many_threads_keep_their_order(tmp_path):
    images = random_images(1300, 1, 2)
    path = write_parquet(tmp_path / "x.parquet", [encode(image) for image in images], [0] * 1300)
    assert np.array_equal(ParquetPart((path,)).load(Wanted(threads=4)).images.numpy(), images)


@pytest.mark.parametrize("folder", ["", "train", "plain_text"])
def test_shards_are_joined_in_order(tmp_path, folder):
    for number in (1, 0):
        rows = slice(5 * number, 5 * number + 5)
        write_parquet(tmp_path / folder / f"train-{number:05d}-of-00002.parquet", PICTURES[rows], LABELS[rows])
    part = find(tmp_path).train
    assert np.array_equal(part.load(Wanted()).images.numpy(), IMAGES)


def test_a_missing_shard_is_named(tmp_path):
    write_parquet(tmp_path / "train-00001-of-00002.parquet", PICTURES, LABELS)
    with pytest.raises(PrecutError) as error:
        find(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/train-00000-of-00002.parquet: missing; train-00001-of-00002.parquet says that there are 2 files"
    )


def test_grey_pictures_become_colour_where_colour_is_wanted(tmp_path):
    images = random_images(3, 1, 4)
    path = write_parquet(tmp_path / "x.parquet", [encode(image) for image in images], [0, 1, 2])
    part = ParquetPart((path,))
    assert np.array_equal(part.load(Wanted()).images.numpy(), images)
    assert np.array_equal(part.load(Wanted(channels=3)).images.numpy(), np.repeat(images, 3, 1))


def test_image_size_resizes_the_shorter_side_and_keeps_the_middle(tmp_path):
    wide = np.zeros((3, 8, 20), np.uint8)
    wide[:, :, 5:15] = 200  # the middle, and the pixels beside it that the filter reaches
    path = write_parquet(tmp_path / "x.parquet", [encode(wide)], [0])
    loaded = ParquetPart((path,)).load(Wanted(image_size=4))
    assert loaded.images.shape == (1, 3, 4, 4)
    assert (loaded.images == 200).all()


def damaged_rows() -> list[tuple[str, bytes | None, str]]:
    png = PICTURES[0]
    middle = png.index(b"IDAT") + 20
    flipped = png[:middle] + bytes((png[middle] ^ 1,)) + png[middle + 1 :]
    deep = encode_deep()
    return [
        ("a flipped bit", flipped, "damaged picture (a PNG checksum does not match)"),
        ("half a file", png[: len(png) // 2], "damaged picture (the PNG file ends early)"),
        ("the end is missing", png[:-12], "damaged picture (the PNG file ends early)"),
        ("text", b"not a picture", "not a picture file that Pillow knows (13 bytes)"),
        ("nothing", b"", "no picture bytes in column 'img'"),
        ("null", None, "no picture bytes in column 'img'"),
        ("16 bits", deep, "pixels of mode 'I;16'; expected 8 bits a channel"),
        (
            "another size",
            encode(random_images(1, 3, 9)[0]),
            "9x9 pixels, but {path}, row 0 has 8x8; pass image_size= to bring all to one size",
        ),
    ]


def encode_deep() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("what", "data", "reason"), damaged_rows(), ids=lambda value: value if type(value) is str else ""
)
@pytest.mark.parametrize("row", [1, 7])
def test_a_bad_picture_is_named_by_file_and_row(tmp_path, what, data, reason, row):
    pictures = [*PICTURES[:row], data, *PICTURES[row:]]
    path = write_parquet(tmp_path / "x.parquet", pictures, [0] * len(pictures))
    with pytest.raises(PrecutError) as error:
        ParquetPart((path,)).load(Wanted())
    assert str(error.value) == f"{path}, row {row}: " + reason.format(path=path)


def test_every_flipped_byte_of_a_picture_is_noticed(tmp_path):
    png = bytearray(encode(random_images(1, 1, 6)[0]))
    unnoticed = []
    for position in range(len(png)):
        damaged = bytes(png[:position]) + bytes((png[position] ^ 0x40,)) + bytes(png[position + 1 :])
        path = write_parquet(tmp_path / "x.parquet", [damaged], [0])
        try:
            ParquetPart((path,)).load(Wanted())
            unnoticed.append(position)
        except PrecutError as error:
            assert str(error).startswith(f"{path}, row 0: ")  # noqa: PT017
    assert unnoticed == []


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (3, "label 3; expected a class number, 0 to 2"),
        (-1, "label -1; expected a class number, 0 to 2"),
        (None, "label None; expected a class number, 0 to 2"),
    ],
)
def test_an_unknown_class_is_named_by_file_and_row(tmp_path, label, reason):
    path = write_parquet(tmp_path / "x.parquet", PICTURES, [*LABELS[:6], label, *LABELS[7:]])
    with pytest.raises(PrecutError) as error:
        ParquetPart((path,)).load(Wanted(num_classes=3))
    assert str(error.value) == f"{path}, row 6: {reason}"


def test_a_label_beyond_all_reason_makes_no_classes(tmp_path):
    for which in ("train", "test"):
        write_parquet(tmp_path / f"{which}.parquet", PICTURES, [10**9, *LABELS[1:]])
    with pytest.raises(PrecutError) as error:
        load(tmp_path, cache=False)
    assert str(error.value) == (
        f"{tmp_path}: label 1000000000 among 10 training images, and no names of classes: the labels look damaged"
    )


def test_colour_is_not_dropped_silently(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [encode(random_images(1, 1)[0]), PICTURES[0]], [0, 0])
    with pytest.raises(PrecutError) as error:
        ParquetPart((path,)).load(Wanted())
    assert str(error.value) == (f"{path}, row 1: a picture of mode 'RGB' where grey ones are expected; pass channels=3")


def table(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_files_that_are_no_dataset(tmp_path):
    empty = write_parquet(tmp_path / "empty.parquet", [], [])
    text = tmp_path / "text.parquet"
    text.write_text("hello")
    numbers = table(tmp_path / "numbers.parquet", a=pa.array([1]), b=pa.array([2.0]))
    unlabelled = table(tmp_path / "unlabelled.parquet", img=pa.array([b"x"]), label=pa.array(["dog"]))
    cases = {
        empty: f"{empty}: no rows; expected at least one picture",
        numbers: f"{numbers}: no column of pictures ('img' or 'image', with bytes); it has a (int64), b (double)",
        unlabelled: f"{unlabelled}: no column of whole-number labels ('label'); it has img (binary), label (string)",
    }
    for path, message in cases.items():
        with pytest.raises(PrecutError) as error:
            ParquetPart((path,)).load(Wanted())
        assert str(error.value) == message
    with pytest.raises(PrecutError) as error:
        ParquetPart((text,)).load(Wanted())
    assert str(error.value).startswith(f"{text}: not a readable parquet file (")


def test_a_file_cut_short_or_damaged_inside_is_named(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", PICTURES, LABELS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PrecutError, match="not a readable parquet file") as error:
        ParquetPart((path,)).load(Wanted())
    assert str(path) in str(error.value)
    path.write_bytes(whole[:4] + bytes(300) + whole[304:])
    with pytest.raises(PrecutError) as error:
        ParquetPart((path,)).load(Wanted())
    assert str(path) in str(error.value)


def test_the_real_cifar10(real_root):
    """The known facts of CIFAR-10's test set: 1,000 of each class, in the official order of names."""
    part = find(real_root / "cifar10").test
    loaded = part.load(Wanted(channels=3, num_classes=10))
    assert loaded.images.shape == (10_000, 3, 32, 32)
    assert loaded.labels.bincount().tolist() == [1000] * 10
    assert (loaded.classes[0], loaded.classes[9]) == ("airplane", "truck")


@pytest.mark.slow
def test_the_constants_of_the_real_cifar10(real_root):
    data = load("cifar10", root=real_root)
    images = data.train.images.double() / 255
    assert images.mean((0, 2, 3)).tolist() == pytest.approx(data.mean, abs=6e-5)
    # the usual constants are the mean over images of each image's deviation
    assert images.std((2, 3)).mean(0).tolist() == pytest.approx(data.std, abs=6e-5)


def test_a_folder_is_found_and_read_whole(tmp_path):
    data = load(parquet_folder(tmp_path / "toy", IMAGES, IMAGES[:3], names=["a", "b", "c"]))
    assert data.classes == ["a", "b", "c"]
    assert (len(data.train), len(data.test)) == (10, 3)
    assert data.mean == pytest.approx((IMAGES / 255).mean((0, 2, 3)))
    assert data.std == pytest.approx((IMAGES / 255).std((0, 2, 3)))
