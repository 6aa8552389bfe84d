"""The official CIFAR archives, in the Python version and the binary version, packed or unpacked.

The Python version is pickled, and an ordinary unpickler runs whatever code a file names. The one here knows three
names of numpy's and one of Python's, and stands in for them itself: a file can make lists, strings, numbers and byte
arrays, and anything else is refused.

Format: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from precut.data._decode import fit
from precut.data._source import Loaded, Source, Wanted, check_label, labels_tensor
from precut.errors import PrecutError

__all__ = ["CifarPart", "find", "safe_unpickle"]

_PIXELS = 3 * 32 * 32
_LIMIT = 1 << 28  # bytes of one member; the largest real one (CIFAR-100 train) has 155 MB


@dataclass(frozen=True)
class Version:
    """One of the official archives: the files in it, and how their rows are laid out."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names: str  # key of the class names in a pickled meta file
    label: str  # key of the labels in a pickled batch
    label_bytes: int  # bytes before the pixels of a row of the binary version; the last one is the label
    binary: bool


_TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
_VERSIONS = {
    "cifar-10-batches-py": Version(_TEN, ("test_batch",), "batches.meta", "label_names", "labels", 0, False),
    "cifar-10-batches-bin": Version(
        tuple(f"{name}.bin" for name in _TEN), ("test_batch.bin",), "batches.meta.txt", "", "", 1, True
    ),
    "cifar-100-python": Version(("train",), ("test",), "meta", "fine_label_names", "fine_labels", 0, False),
    "cifar-100-binary": Version(("train.bin",), ("test.bin",), "fine_label_names.txt", "", "", 2, True),
}


_ARCHIVES = {
    "cifar-10-python": "cifar-10-batches-py",
    "cifar-10-binary": "cifar-10-batches-bin",
    "cifar-100-python": "cifar-100-python",
    "cifar-100-binary": "cifar-100-binary",
}


def find(place: Path) -> Source | None:
    """A folder with the batch files, or the official ``.tar.gz`` (or ``.tar``), known by its name."""
    if place.is_file():
        folder = _ARCHIVES.get(place.name.removesuffix(".gz").removesuffix(".tar"))
        return None if folder is None else _source(place, _VERSIONS[folder])
    names = {path.name for path in place.iterdir() if path.is_file()}
    for version in _VERSIONS.values():
        if version.meta in names and names & {*version.train, *version.test}:
            for name in (*version.train, *version.test):
                if name not in names:
                    raise PrecutError(f"{place}: the file {name} is missing")
            return _source(place, version)
    return None


def _source(place: Path, version: Version) -> Source:
    return Source("CIFAR archive", str(place), CifarPart(place, version), CifarPart(place, version, test=True))


@dataclass(frozen=True)
class CifarPart:
    """One split of an archive."""

    place: Path
    version: Version
    test: bool = False

    @property
    def _names(self) -> tuple[str, ...]:
        return self.version.test if self.test else self.version.train

    @property
    def files(self) -> tuple[Path, ...]:
        if self.place.is_file():
            return (self.place,)
        return tuple(self.place / name for name in (*self._names, self.version.meta))

    def load(self, wanted: Wanted) -> Loaded:
        members = self._read((*self._names, self.version.meta))
        pixels, labels = [], []
        for name in self._names:
            rows = self._binary if self.version.binary else self._pickled
            batch_pixels, batch_labels = rows(members[name], f"{self.place}: {name}")
            for row, label in enumerate(batch_labels):
                check_label(label, wanted.num_classes, f"{self.place}: {name}, row {row}")
            pixels.append(batch_pixels)
            labels.extend(batch_labels)
        images = torch.from_numpy(np.concatenate(pixels).reshape(-1, 3, 32, 32))
        return Loaded(
            fit(images, wanted, str(self.place)), labels_tensor(labels), self._classes(members[self.version.meta])
        )

    def _read(self, names: tuple[str, ...]) -> dict[str, bytes]:
        if self.place.is_dir():
            return {name: (self.place / name).read_bytes() for name in names}
        members = {}
        opener = gzip.open if self.place.suffix == ".gz" else open
        try:
            with opener(self.place, "rb") as stream:
                with tarfile.open(fileobj=stream, mode="r|") as archive:
                    for member in archive:
                        name = Path(member.name).name
                        if name in names and member.isfile() and member.size <= _LIMIT:
                            file = archive.extractfile(member)
                            assert file is not None  # it is for regular files
                            members[name] = file.read()
                while stream.read(1 << 20):  # to the end, where gzip compares its checksum
                    pass
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise PrecutError(f"{self.place}: damaged archive ({error})") from error
        for name in names:
            if name not in members:
                raise PrecutError(f"{self.place}: the file {name} is missing")
        return members

    def _binary(self, data: bytes, where: str) -> tuple[NDArray[np.uint8], list[int]]:
        length = self.version.label_bytes + _PIXELS
        if not data or len(data) % length:
            raise PrecutError(f"{where}: {len(data)} bytes; expected a multiple of {length}")
        rows = np.frombuffer(data, np.uint8).reshape(-1, length)
        return rows[:, -_PIXELS:], rows[:, self.version.label_bytes - 1].tolist()

    def _pickled(self, data: bytes, where: str) -> tuple[NDArray[np.uint8], list[int]]:
        batch = _text_keys(safe_unpickle(data, where), where)
        array, labels = batch.get("data"), batch.get(self.version.label)
        if not isinstance(array, PickledArray) or not isinstance(labels, list):
            raise PrecutError(
                f"{where}: expected an array 'data' and a list {self.version.label!r} in the pickled dict"
            )
        pixels = array.to_numpy(where)
        if pixels.shape != (len(labels), _PIXELS) or not labels:
            raise PrecutError(
                f"{where}: data of shape {pixels.shape} for {len(labels)} labels; expected (n, {_PIXELS})"
            )
        return pixels, labels

    def _classes(self, data: bytes) -> tuple[str, ...]:
        where = f"{self.place}: {self.version.meta}"
        if self.version.binary:
            return tuple(data.decode("utf-8", "replace").split())
        names = _text_keys(safe_unpickle(data, where), where).get(self.version.names)
        if not isinstance(names, list):
            raise PrecutError(f"{where}: expected a list {self.version.names!r} in the pickled dict")
        return tuple(_text(name) for name in names)


class PickledArray:
    """Stands in for numpy's ndarray while unpickling: keeps what it is given, and checks it before any use."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def to_numpy(self, where: str) -> NDArray[np.uint8]:
        match self.state:
            case (_, tuple(shape), PickledType(code="u1"), order, bytes(values)):
                axes = [axis for axis in shape if isinstance(axis, int) and axis >= 0]
                if len(axes) == len(shape) and math.prod(axes) == len(values):
                    flat = np.frombuffer(values, np.uint8)
                    return flat.reshape(axes, order="F" if order else "C")
        raise PrecutError(f"{where}: the pickled array is damaged or not of unsigned bytes")


class PickledType:
    """Stands in for numpy's dtype while unpickling."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = _text(code) if isinstance(code, bytes | str) else None

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: a type of one byte has none."""


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for ``_codecs.encode``, by which Python 3 pickles bytes in old protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in {encoding!r}")
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledType,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "_reconstruct"] = lambda *_: PickledArray()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        try:
            found: Callable[..., object] = _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only numpy arrays are allowed") from None
        return found


def safe_unpickle(data: bytes, where: str) -> object:
    """The lists, dicts, strings, numbers and :class:`PickledArray` in a pickle; no code of the file's choice runs.

    Raises:
        PrecutError: the pickle is damaged, or names anything but numpy's arrays.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise almost anything
        raise PrecutError(f"{where}: refused to unpickle ({error})") from error


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _text_keys(value: object, where: str) -> dict[str, object]:
    """Keys are bytes in what Python 2 pickled."""
    if not isinstance(value, dict):
        raise PrecutError(f"{where}: a pickled {type(value).__name__}; expected a dict")
    return {_text(key): entry for key, entry in value.items()}
