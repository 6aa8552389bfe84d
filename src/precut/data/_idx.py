"""IDX files, plain or gzipped: the format of MNIST and Fashion-MNIST.

Format: two zero bytes, a type (8: unsigned byte), the number of axes, each axis's length as a big-endian 32-bit
number, then the values (LeCun, Cortes, Burges: the MNIST database).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from precut.data._decode import fit
from precut.data._source import Loaded, Source, Wanted, check_label, labels_tensor
from precut.errors import PrecutError

__all__ = ["IdxPart", "find", "read_idx"]

_PREFIXES = {"train": "train", "test": "t10k"}
_KINDS = {"images": "idx3", "labels": "idx1"}


def find(place: Path) -> Source | None:
    """A folder with ``train-images-idx3-ubyte`` and its three companions, with or without ``.gz``."""
    if place.is_file():
        return None
    train, test = (_part(place, prefix) for prefix in _PREFIXES.values())
    if train is None and test is None:
        return None
    return Source("IDX", str(place), train, test)


def _part(folder: Path, prefix: str) -> IdxPart | None:
    found = {kind: _file(folder, f"{prefix}-{kind}", rank) for kind, rank in _KINDS.items()}
    images, labels = found["images"], found["labels"]
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        missing = "images" if images is None else "labels"
        raise PrecutError(
            f"{folder}: {prefix}-{missing}-{_KINDS[missing]}-ubyte (or .gz) is missing beside {images or labels}"
        )
    return IdxPart(images, labels)


def _file(folder: Path, stem: str, rank: str) -> Path | None:
    names = (f"{stem}{joint}{rank}-ubyte{suffix}" for joint in "-." for suffix in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


@dataclass(frozen=True)
class IdxPart:
    """One split: a file of images (n, height, width) and a file of labels (n,)."""

    images: Path
    labels: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return self.images, self.labels

    def load(self, wanted: Wanted) -> Loaded:
        images, labels = read_idx(self.images, 3), read_idx(self.labels, 1)
        if len(images) != len(labels):
            raise PrecutError(f"{self.images}: {len(images)} images, but {self.labels} has {len(labels)} labels")
        if len(images) == 0:
            raise PrecutError(f"{self.images}: no images; expected at least one")
        if wanted.num_classes is not None and int(labels.max()) >= wanted.num_classes:
            row = int((labels >= wanted.num_classes).argmax())
            check_label(int(labels[row]), wanted.num_classes, f"{self.labels}, row {row}")
        return Loaded(fit(torch.from_numpy(images)[:, None], wanted, str(self.images)), labels_tensor(labels))


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The uint8 array of an IDX file that must have ``axes`` axes."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            header = file.read(4 + 4 * axes)
            if len(header) < 4 + 4 * axes or header[:4] != bytes((0, 0, 8, axes)):
                raise PrecutError(
                    f"{path}: starts with {header[:4].hex(' ')}; expected 00 00 08 {axes:02x}, an IDX file of bytes"
                )
            shape = struct.unpack(f">{axes}I", header[4:])
            expected = math.prod(shape)
            # One byte more than there should be tells a longer file, and bounds what a hostile one can unpack to. No
            # deflated byte makes more than 1032: a damaged header must not ask for memory that the file cannot fill.
            values = file.read(min(expected + 1, 1032 * path.stat().st_size))
    except (OSError, EOFError, zlib.error) as error:
        raise PrecutError(f"{path}: cannot be read ({error})") from error
    if len(values) != expected:
        had = f"{len(values)}" if len(values) < expected else f"more than {expected}"
        raise PrecutError(f"{path}: {had} bytes of values; its header says {'x'.join(map(str, shape))} = {expected}")
    return np.frombuffer(values, np.uint8).reshape(shape).copy()
