"""Small datasets, written by other means than the code under test reads them with."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ant", "bee", "cow")


def random_images(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> np.ndarray:
    """uint8 (N, C, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def encode(image: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """(C, H, W) to the bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(stream, kind, **options)
    return stream.getvalue()


def write_parquet(
    path: Path,
    pictures: Sequence[bytes | None],
    labels: Sequence[int | None],
    image: str = "img",
    label: str = "label",
    names: Sequence[str] | None = None,
    plain: bool = False,
) -> Path:
    """A file as the hub has it; ``plain`` puts the bytes into the column itself and not into a struct."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if plain:
        column = pa.array(list(pictures), pa.binary())
    else:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        column = pa.array([{"bytes": picture, "path": None} for picture in pictures], kind)
    metadata = None
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({image: column, label: pa.array(list(labels), pa.int64())})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)
    return path


def parquet_folder(folder: Path, train: np.ndarray, test: np.ndarray, classes: int = 3, **options: object) -> Path:
    """``train.parquet`` and ``test.parquet``, labels 0, 1, 2, 0, 1, ..."""
    for name, images in (("train", train), ("test", test)):
        labels = [i % classes for i in range(len(images))]
        write_parquet(folder / f"{name}.parquet", [encode(image) for image in images], labels, **options)
    return folder


def picture_folder(folder: Path, images: np.ndarray, classes: Sequence[str] = CLASSES, kind: str = "PNG") -> Path:
    """One folder a class; image i is of class i mod len(classes)."""
    for i, image in enumerate(images):
        path = folder / classes[i % len(classes)] / f"{i:04d}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image, kind))
    return folder


def write_idx(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def idx_folder(folder: Path, suffix: str = "", count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """The four files of an MNIST-like set; returns the training images (N, H, W) and labels."""
    for prefix, seed in (("t10k", 1), ("train", 0)):
        images = random_images(count, 1, 6, seed)[:, 0]
        labels = np.arange(count) % 10
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return images, labels


def python2_batch(pixels: np.ndarray, labels: Sequence[int], key: bytes = b"labels") -> bytes:
    """A batch as the official CIFAR archives have it: pickled by Python 2 with its numpy, written by hand."""
    rows, columns = pixels.shape
    raw = pixels.tobytes()
    return (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86"
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
        + b"U" + bytes((len(key),)) + key + b"](" + b"".join(b"K" + bytes((label,)) for label in labels) + b"eu."
    )  # fmt: skip


def cifar10_folder(folder: Path, rows: int = 4, binary: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The files of the official CIFAR-10 archive, smaller; returns the training images and labels."""
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    images = random_images(rows * 6, 3, 32).reshape(6, rows, 3072)
    labels = np.arange(rows * 6).reshape(6, rows) % 10
    for name, pixels, numbers in zip(names, images, labels, strict=True):
        if binary:
            (folder / f"{name}.bin").write_bytes(np.hstack([numbers[:, None].astype(np.uint8), pixels]).tobytes())
        else:
            (folder / name).write_bytes(python2_batch(pixels, numbers.tolist()))
    classes = [f"class{i}" for i in range(10)]
    if binary:
        (folder / "batches.meta.txt").write_text("\n".join(classes) + "\n\n")
    else:
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}, protocol=0))
    return images[:5].reshape(-1, 3, 32, 32), labels[:5].reshape(-1)


def pack(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    return archive


def tiny_imagenet(folder: Path, wnids: Sequence[str] = ("n002", "n001"), size: int = 8) -> Path:
    """The official layout; validation picture i is of class i mod len(wnids)."""
    folder.mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    for number, wnid in enumerate(wnids):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for i, image in enumerate(random_images(3, 3, size, number)):
            (images / f"{wnid}_{i}.JPEG").write_bytes(encode(image, "JPEG"))
        (images.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t1\t1\n")
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for i, image in enumerate(random_images(4, 3, size, 99)):
        (folder / "val" / "images" / f"val_{i}.JPEG").write_bytes(encode(image, "JPEG"))
        lines.append(f"val_{i}.JPEG\t{wnids[i % len(wnids)]}\t0\t0\t7\t7\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder
