"""Parquet files in the hub's schema: a picture file in each row (``img.bytes`` or ``image.bytes``) and its label.

Files: ``train.parquet`` and ``test.parquet``, or shards ``train-00000-of-00002.parquet``, also in a folder below.
Class names come from the schema's metadata, where the hub's library leaves them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.data._decode import Encoded, decode_all
from precut.data._source import TEST_NAMES, TRAIN_NAMES, Loaded, Source, Wanted, check_label, labels_tensor
from precut.errors import PrecutError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ParquetPart", "find"]

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


def find(place: Path) -> Source | None:
    """A folder with parquet files named for their splits, or one parquet file (a training split without a test)."""
    if place.is_file():
        if place.suffix != ".parquet":
            return None
        return Source("parquet", str(place), ParquetPart((place,)), None)
    train, test = _files(place, TRAIN_NAMES), _files(place, TEST_NAMES)
    if not train and not test:
        return None
    return Source("parquet", str(place), ParquetPart(train) if train else None, ParquetPart(test) if test else None)


def _files(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of the first of these splits that is there: in the folder itself, or in one folder below it."""
    for name in names:
        for pattern in (f"{name}.parquet", f"{name}-*.parquet", f"{name}/*.parquet", f"*/{name}-*.parquet"):
            if found := sorted(folder.glob(pattern)):
                return _whole([path for path in found if path.parent == found[0].parent])
    return ()


def _whole(files: list[Path]) -> tuple[Path, ...]:
    """The same files, if every shard is there: ``name-00000-of-00002.parquet`` tells of another."""
    if shard := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})", files[0].stem):
        stem, count = shard[1], int(shard[2])
        for number in range(count):
            path = files[0].with_name(f"{stem}-{number:05d}-of-{count:05d}.parquet")
            if path not in files:
                raise PrecutError(f"{path}: missing; {files[0].name} says that there are {count} files")
    return tuple(files)


@dataclass(frozen=True)
class ParquetPart:
    """One split: the rows of its files, in order."""

    files: tuple[Path, ...]

    def load(self, wanted: Wanted) -> Loaded:
        """Read and decode every row. Memory: the decoded pictures and a few hundred encoded ones."""
        labels: list[int] = []
        count = sum(_open(path).metadata.num_rows for path in self.files)
        if count == 0:
            raise PrecutError(f"{', '.join(map(str, self.files))}: no rows; expected at least one picture")
        images = decode_all(
            self._rows(labels, wanted.num_classes), count, wanted.channels, wanted.image_size, wanted.threads
        )
        return Loaded(images, labels_tensor(labels), _class_names(self.files[0]))

    def _rows(self, labels: list[int], num_classes: int | None) -> Iterator[Encoded]:
        """The pictures one by one; their labels are appended to ``labels`` on the way."""
        import pyarrow as pa

        for path in self.files:
            file = _open(path)
            image, label = _columns(path, file.schema_arrow)
            row = 0
            try:
                for batch in file.iter_batches(batch_size=1000, columns=[image, label]):
                    pictures = batch.column(image)
                    if pa.types.is_struct(pictures.type):
                        pictures = pictures.field("bytes")
                    for data, number in zip(pictures.to_pylist(), batch.column(label).to_pylist(), strict=True):
                        where = f"{path}, row {row}"
                        if not data:
                            raise PrecutError(f"{where}: no picture bytes in column {image!r}")
                        labels.append(check_label(number, num_classes, where))
                        yield data, where
                        row += 1
            except (pa.ArrowException, OSError) as error:
                raise PrecutError(f"{path}: damaged parquet file, near row {row} ({_short(error)})") from error


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise PrecutError(f"{path}: not a readable parquet file ({_short(error)})") from error


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str]:
    """The names of the columns that hold the pictures and the labels."""
    import pyarrow as pa

    def is_picture(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    pictures = [field.name for field in schema if is_picture(field.type)]
    image = next((name for name in _IMAGE_COLUMNS if name in pictures), pictures[0] if len(pictures) == 1 else None)
    label = next(
        (name for name in _LABEL_COLUMNS if name in schema.names and pa.types.is_integer(schema.field(name).type)), None
    )
    if image is None or label is None:
        missing = "pictures ('img' or 'image', with bytes)" if image is None else "whole-number labels ('label')"
        raise PrecutError(
            f"{path}: no column of {missing}; it has " + ", ".join(f"{f.name} ({f.type})" for f in schema)
        )
    return image, label


def _class_names(path: Path) -> tuple[str, ...] | None:
    """The names that the hub's library wrote into the schema, if it did."""
    schema = _open(path).schema_arrow
    _, label = _columns(path, schema)
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
