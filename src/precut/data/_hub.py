"""Datasets from the hub, through the ``datasets`` library (the extra ``precut[hub]``), which keeps its own copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from precut.data._decode import Encoded, decode_all
from precut.data._source import Encodings, Loaded, Source, Wanted, check_label, labels_tensor
from precut.errors import PrecutError

__all__ = ["HubError", "HubPart", "find"]

_LABEL_COLUMNS = ("label", "labels", "fine_label")


class HubError(Exception):
    """Why the hub gave nothing, in a few words; the loader puts them into its own message."""


def find(repository: str, test: str) -> Source:
    """The splits ``train`` and ``test`` of a repository; fetched now, if this machine lacks them.

    Raises:
        HubError: the library is not installed, or could not get them.
    """
    parts = []
    for split in ("train", test):
        part = HubPart(repository, split)
        part.fetch()
        parts.append(part)
    return Source("hub", f"hub: {repository}", *parts)


@dataclass(frozen=True)
class HubPart:
    """One split of a repository."""

    repository: str
    split: str

    def fetch(self) -> None:
        """Have the library get the split, so that what goes wrong shows here."""
        assert self._table is not None

    @cached_property
    def _table(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == "datasets"
            reason = "is not installed" if absent else f"cannot be imported ({error})"
            raise HubError(f"the 'datasets' library {reason}") from None
        try:
            table = datasets.load_dataset(self.repository, split=self.split)
            column = self._image_column(table)
            return table.cast_column(column, datasets.Image(decode=False))
        except PrecutError:
            raise
        except Exception as error:  # the library's own, the network's, the disk's
            reason = (str(error).splitlines() or [""])[0]
            raise HubError(f"{type(error).__name__}: {reason}") from error

    def _image_column(self, table: Any) -> str:
        for name, feature in table.features.items():
            if type(feature).__name__ == "Image":
                return str(name)
        raise PrecutError(f"{self.repository}: no column of pictures; it has {', '.join(table.features)}")

    def _label_column(self) -> str:
        for name in _LABEL_COLUMNS:
            if name in self._table.features:
                return name
        raise PrecutError(f"{self.repository}: no column of labels ('label'); it has {', '.join(self._table.features)}")

    @property
    def files(self) -> Sequence[Path]:
        return [Path(entry["filename"]) for entry in self._table.cache_files]

    def index(self, wanted: Wanted) -> tuple[Encodings, Tensor, tuple[str, ...]]:
        column = self._label_column()
        where = f"{self.repository} {self.split}"
        labels = [
            check_label(label, wanted.num_classes, f"{where}, row {row}")
            for row, label in enumerate(self._table[column])
        ]
        if not labels:
            raise PrecutError(f"{where}: the split is empty")
        names = getattr(self._table.features[column], "names", None) or [str(i) for i in range(max(labels) + 1)]
        return HubEncodings(self._table, self._image_column(self._table), where), labels_tensor(labels), tuple(names)

    def load(self, wanted: Wanted) -> Loaded:
        encodings, labels, classes = self.index(wanted)
        items: Iterator[Encoded] = ((encodings.read(i), encodings.where(i)) for i in range(len(encodings)))
        images = decode_all(items, len(encodings), wanted.channels, wanted.image_size, wanted.threads)
        return Loaded(images, labels, classes)


@dataclass(frozen=True)
class HubEncodings:
    """The picture files in a table of the library's."""

    table: Any
    column: str
    place: str

    def __len__(self) -> int:
        return len(self.table)

    def read(self, index: int) -> bytes:
        picture = self.table[index][self.column]
        if picture is not None and picture.get("bytes"):
            return bytes(picture["bytes"])
        if picture is not None and picture.get("path"):
            return Path(picture["path"]).read_bytes()
        raise PrecutError(f"{self.where(index)}: no picture bytes in column {self.column!r}")

    def where(self, index: int) -> str:
        return f"{self.place}, row {index}"
