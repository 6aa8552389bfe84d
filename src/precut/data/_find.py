"""Where the files of a dataset are, and which reader knows their format."""

from __future__ import annotations

import os
from pathlib import Path

from precut.data import _cifar, _folder, _hub, _idx, _parquet, _tiny_imagenet
from precut.data._known import KNOWN, Known
from precut.data._points import is_made
from precut.data._source import Reader, Source
from precut.errors import PrecutError, unknown

__all__ = ["READERS", "find_known", "find_path", "locate"]

READERS: tuple[Reader, ...] = (_parquet.find, _cifar.find, _idx.find, _tiny_imagenet.find, _folder.find)
"""In the order they are asked: the folder reader takes almost anything, so it comes last."""

_BUNDLED = Path(__file__).parent / "samples"


def find_known(name: str, known: Known, root: str | os.PathLike[str] | None) -> Source:
    """The files of a dataset with a name: below the root, else from the hub."""
    if known.bundled:
        places = [_BUNDLED / place for place in known.places]
        return next(source for place in places if (source := _read_place(place)) is not None)
    base, said = _base(root)
    source, tried = _below(base, known)
    if source is not None:
        return source
    looked = f"in {base} ({said}) for {', '.join(known.places)}" if base else "nowhere on disk, since no root was given"
    if known.hub is not None:
        try:
            return _hub.find(known.hub, known.hub_test)
        except _hub.HubError as reason:
            tried.append(f"from the hub: {reason}")
    raise PrecutError(
        f"dataset {name!r} was not found: looked {looked}"
        + "".join(f"; {what}" for what in tried)
        + ". Put its files there and pass root= (--data-root) or set PRECUT_DATA, or install precut[hub] to fetch it"
    )


def locate(name: str, root: str | os.PathLike[str] | None = None) -> str | None:
    """Where on this disk :func:`load` would find the dataset with this name; None if nowhere. Nothing is decoded.

    Args:
        name: one of :func:`list_datasets`.
        root: the folder that holds datasets; ``$PRECUT_DATA`` if None.
    """
    if is_made(name):
        return "made when loaded"
    known = KNOWN[name]
    source = find_known(name, known, root) if known.bundled else _below(_base(root)[0], known)[0]
    return None if source is None else source.place


def _below(base: Path | None, known: Known) -> tuple[Source | None, list[str]]:
    """The files of a dataset below a root, and what was there that could not be read."""
    tried: list[str] = []
    if base is not None:
        # the root may also be the dataset's own folder
        own = [base] if base.name in known.places else []
        for place in [*own, *(base / place for place in known.places)]:
            if place.exists():
                if (source := _read_place(place)) is not None:
                    return source, tried
                tried.append(f"{place} is there, but in no format that is known")
    return None, tried


def _base(root: str | os.PathLike[str] | None) -> tuple[Path | None, str]:
    """The folder to look in, and how it was given."""
    if root is not None:
        base = Path(root).expanduser()
        if not base.is_dir():
            raise PrecutError(f"root={os.fspath(root)!r} is not a folder; expected the one that holds the datasets")
        return base, "root="
    given = os.environ.get("PRECUT_DATA")
    if not given:
        return None, ""
    base = Path(given).expanduser()
    if not base.is_dir():
        raise PrecutError(f"PRECUT_DATA={given!r} is not a folder; expected the one that holds the datasets")
    return base, "PRECUT_DATA"


def find_path(name: str, root: str | os.PathLike[str] | None) -> Source:
    """The dataset at a path; a relative one is also looked for below the root."""
    base, _ = _base(root)
    candidates = [Path(name).expanduser(), *([base / name] if base else [])]
    place = next((path for path in candidates if path.exists()), None)
    if place is None:
        if Path(name).name != name or Path(name).suffix:
            raise PrecutError(f"no file or folder {name!r}; expected the path of a dataset or one of its names")
        raise unknown("dataset", name, KNOWN, "precut.data.list_datasets()")
    source = _read_place(place)
    if source is None:
        raise PrecutError(
            f"{place}: no dataset in it; expected train and test parts as parquet files or as folders with one folder "
            "a class, IDX files, or an official CIFAR or Tiny-ImageNet archive"
        )
    return source


def _read_place(place: Path) -> Source | None:
    """What the first reader that knows the format of this file or folder finds there."""
    try:
        return next((source for reader in READERS if (source := reader(place)) is not None), None)
    except OSError as error:
        raise PrecutError(f"{place}: cannot be read ({error.strerror or error})") from error
