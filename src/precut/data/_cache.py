"""Decoded splits kept as safetensors, so that a small set is decoded once on a machine.

A file is found by what it was made from (paths and options) and used only while the sizes and times of those files are
the same. It is mapped into memory, so processes that train beside each other share its pages. It is written under
another name and moved into place: a reader never sees half of it. The cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors

from precut.data._source import Loaded, Part, Wanted

__all__ = ["cache_dir", "load_cached"]

_VERSION = 1  # of the decoding: raise it when the same files give other pixels


def cache_dir() -> Path:
    """``$PRECUT_CACHE``, or ``~/.cache/precut``."""
    given = os.environ.get("PRECUT_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "precut"


def load_cached(part: Part, wanted: Wanted, label: str) -> Loaded:
    """``part.load(wanted)``, from the cache where it is there and still true. ``label`` is for people's eyes only."""
    options = {key: value for key, value in asdict(wanted).items() if key != "threads"}
    files = [os.path.abspath(path) for path in part.files]
    state = _state(files)
    if state is None:
        return part.load(wanted)
    name = hashlib.blake2b(json.dumps([_VERSION, options, files]).encode(), digest_size=12).hexdigest()
    path = cache_dir() / "data" / f"{label}-{name}.safetensors"
    found = _read(path, state)
    if found is None:
        found = part.load(wanted)
        # a full or read-only disk costs time later, not the run now
        with contextlib.suppress(OSError, safetensors.SafetensorError):
            _write(path, state, found)
    return found


def _state(files: Sequence[str]) -> str | None:
    """A digest of the sizes and modification times; None if there are no files, or not all of them: nothing tells
    then whether a cache is true, and the reader says best what is missing."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            return None
        digest.update(f"{status.st_size} {status.st_mtime_ns};".encode())
    return digest.hexdigest() if files else None


def _read(path: Path, state: str) -> Loaded | None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("state") != state:
                return None
            classes = json.loads(metadata["classes"])
            return Loaded(
                file.get_tensor("images"), file.get_tensor("labels"), None if classes is None else tuple(classes)
            )
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        return None  # missing or damaged: decode again


def _write(path: Path, state: str, loaded: Loaded) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        metadata = {"state": state, "classes": json.dumps(loaded.classes)}
        save_file({"images": loaded.images, "labels": loaded.labels}, temporary, metadata)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
