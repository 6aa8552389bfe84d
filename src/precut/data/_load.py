"""From a name or a path to a dataset: find the files, read them with the reader that knows them, check what came."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

import torch

from precut.data._cache import load_cached
from precut.data._dataset import Dataset, Split, hold_out
from precut.data._find import find_known, find_path
from precut.data._known import KNOWN, Known
from precut.data._lazy import LazySplit
from precut.data._points import is_made, made
from precut.data._source import Part, Source, Wanted, can_be_lazy
from precut.errors import PrecutError

__all__ = ["load"]

_IN_MEMORY = 4 << 30  # bytes of decoded training images up to which a folder given by path is held in memory
_CLASSES = 100_000  # nameless classes up to which labels are believed, however few the images
_SAMPLE = 2000  # pictures by which the mean of a lazy split is estimated


def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    lazy: bool | None = None,
    test_fraction: float | None = None,
    cache: bool = True,
    threads: int | None = None,
) -> Dataset:
    """Load a dataset by its name (:func:`list_datasets`) or by the path of a folder or file of images.

    A name is looked for below ``root``, or below ``$PRECUT_DATA`` where no root is given, as parquet files in the
    hub's schema, the official archive (packed or not), IDX files or folders; then on the hub through the ``datasets``
    library. Small sets are decoded once and cached in ``$PRECUT_CACHE`` (``~/.cache/precut``). "linear-20" to
    "circle-40" are points that are made on the spot (:func:`segments`).

    Args:
        name: a name, or a path: a folder with ``train`` and ``test`` (or ``val``) parts in any of those formats, a
            folder with one folder a class, or one parquet file.
        root: the folder that holds datasets.
        image_size: side in pixels to bring all images to (the shorter side is resized, the middle of the longer one
            is kept). None: as they are; 224 for imagenet.
        channels: 1 or 3. None: what the dataset has.
        lazy: leave the pictures on disk and decode them while training. None: for imagenet, and for a folder given by
            path with an ``image_size`` at which it would take more than 4 GiB.
        test_fraction: where there is no test split, hold out this share of the images, class by class.
        cache: keep what was decoded for the next time.
        threads: decoding threads; None for one a CPU, eight at most.

    Raises:
        PrecutError: nothing is there under this name, or a file, picture or label is damaged, missing or unknown.
    """
    _check(image_size, channels, test_fraction)
    if not isinstance(name, (str, os.PathLike)):
        raise PrecutError(f"load takes the name of a dataset or its path; got {name!r:.60}")
    label = os.fspath(name)
    known: Known | None = None
    if is_made(label):
        given = {"image_size": image_size, "channels": channels, "lazy": lazy, "test_fraction": test_fraction}
        for option, value in given.items():
            if value is not None:
                raise PrecutError(f"load({label!r}) makes points, not images: leave {option}={value!r} out")
        return made(label)
    if label in KNOWN:
        known = KNOWN[label]
        source = find_known(label, known, root)
    else:
        source = find_path(label, root)
    wanted = Wanted(
        channels=channels or (known.channels if known else None),
        image_size=image_size or (known.image_size if known else None),
        num_classes=known.num_classes if known else None,
        threads=threads,
    )
    if source.train is None:
        raise PrecutError(f"{source.place}: no training split (train) in this {source.format}")
    if lazy is None:
        lazy = known.lazy if known else _too_large(source.train, wanted)
    request = _Request(label, known, source, lazy, cache)
    train, found = _read(request, source.train, "train", wanted)
    classes = _class_names(request, train, found)
    if source.test is not None:
        if test_fraction is not None:
            raise PrecutError(
                f"load got test_fraction={test_fraction}, but {source.place} has a test split; leave it out"
            )
        test = _read_test(request, source.test, wanted, train, classes)
    else:
        if test_fraction is None:
            raise PrecutError(
                f"{source.place}: no test split (test, val, valid or validation) in this {source.format}; "
                "add one, or pass test_fraction=0.2 to hold out a part of every class"
            )
        train, test = hold_out(train, None, test_fraction, 0, f"{label} test")
    constants = known is not None and len(known.mean) == train.image_shape[0]
    mean, std = (known.mean, known.std) if known is not None and constants else statistics(train)
    return Dataset(label, train, test, list(classes), mean, std, source.place)


@dataclass(frozen=True)
class _Request:
    """One call of :func:`load`, its files found."""

    name: str
    known: Known | None
    source: Source
    lazy: bool
    cache: bool


def _read(
    request: _Request, part: Part, which: str, wanted: Wanted
) -> tuple[Split | LazySplit, tuple[str, ...] | None]:
    """The split, and the class names if its files tell them."""
    name = f"{request.name} {which}"
    if not request.lazy:
        stem = f"{Path(request.name).stem or 'data'}-{which}"
        loaded = load_cached(part, wanted, stem) if request.cache else part.load(wanted)
        return Split(loaded.images, loaded.labels, name), loaded.classes
    if not can_be_lazy(part):
        raise PrecutError(
            f"{request.source.place}: a {request.source.format} cannot be decoded while training, as {request.name!r} "
            "is to be; unpack it into folders (train/<class>/...), or pass lazy=False to hold it in memory"
        )
    if wanted.image_size is None:
        raise PrecutError(f"load({request.name!r}, lazy=True) needs image_size=, the side of the images in pixels")
    encodings, labels, classes = part.index(wanted)
    split = LazySplit(encodings, labels, wanted.image_size, wanted.channels or 3, name, wanted.threads)
    return split, classes


def _read_test(
    request: _Request, part: Part, wanted: Wanted, train: Split | LazySplit, classes: tuple[str, ...]
) -> Split | LazySplit:
    """The test split, which must have the training split's channels, classes and image size."""
    wanted = replace(wanted, channels=train.image_shape[0], classes=classes, num_classes=len(classes))
    test, found = _read(request, part, "test", wanted)
    if test.image_shape != train.image_shape:
        raise PrecutError(
            f"{request.source.place}: test images of {_size(test)}, training images of {_size(train)}; "
            "pass image_size= to bring all to one size"
        )
    if found is not None and found != classes:
        raise PrecutError(
            f"{request.source.place}: the test split's classes are {_some(found)}, the training split's "
            f"{_some(classes)}; expected the same"
        )
    return test


def _class_names(request: _Request, train: Split | LazySplit, found: tuple[str, ...] | None) -> tuple[str, ...]:
    """What the files say, else what is known, else the numbers."""
    largest = int(train.labels.max())
    known = request.known
    expected = known.num_classes if known else None
    if found is None and known is None and largest >= max(_CLASSES, len(train)):
        raise PrecutError(
            f"{request.source.place}: label {largest} among {len(train)} training images, and no names of classes: "
            "the labels look damaged"
        )
    names = found or (known.classes if known else None) or tuple(str(i) for i in range(expected or largest + 1))
    if expected is not None and len(names) != expected:
        raise PrecutError(f"{request.source.place}: {len(names)} classes, but {request.name!r} has {expected}")
    if largest >= len(names):
        raise PrecutError(
            f"{request.source.place}: label {largest} among the training images, but {len(names)} classes"
        )
    return names


def _too_large(part: Part, wanted: Wanted) -> bool:
    """Whether a folder given by path is better left on disk."""
    size = wanted.image_size
    if size is None or not can_be_lazy(part):
        return False
    return len(part.index(wanted)[1]) * 3 * size * size > _IN_MEMORY


def _check(image_size: int | None, channels: int | None, test_fraction: float | None) -> None:
    if image_size is not None and (not isinstance(image_size, Integral) or image_size < 1):
        raise PrecutError(f"load got image_size={image_size!r}; expected at least 1 pixel")
    if channels not in (None, 1, 3):
        raise PrecutError(f"load got channels={channels}; expected 1 (grey) or 3 (red, green, blue)")
    if test_fraction is not None and not (isinstance(test_fraction, float) and 0 < test_fraction < 1):
        raise PrecutError(f"load got test_fraction={test_fraction!r}; expected a share between 0 and 1")


def statistics(split: Split | LazySplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on the 0..1 scale, exact for images in memory."""
    if isinstance(split, LazySplit):
        step = max(1, len(split) // _SAMPLE)
        parts = split.stream(torch.arange(0, len(split), step).split(250))
    else:
        parts = iter(split.images.split(1000))
    # sums of whole numbers: exact, whatever the order
    total = squares = torch.zeros(split.image_shape[0], dtype=torch.int64)
    count = 0
    for images in parts:
        values = images.to(torch.int64)
        total = total + values.sum((0, 2, 3))
        squares = squares + values.square().sum((0, 2, 3))
        count += values.numel() // values.shape[1]
    mean = total.double() / count
    std = (squares.double() / count - mean.square()).clamp_min(0).sqrt().clamp_min(1)  # a constant channel stays finite
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _size(split: Split | LazySplit) -> str:
    return f"{split.image_shape[1]}x{split.image_shape[2]}"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
