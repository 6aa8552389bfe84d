"""The cache of decoded splits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from precut.data._cache import cache_dir, load_cached
from precut.data._source import Loaded, Wanted


class Part:
    """Counts how often it is decoded."""

    def __init__(self, *files: Path) -> None:
        self.files = files
        self.loads = 0

    def load(self, wanted: Wanted) -> Loaded:
        self.loads += 1
        size = wanted.image_size or 2
        return Loaded(
            torch.full((3, 1, size, size), self.loads, dtype=torch.uint8), torch.tensor([2, 0, 1]), ("a", "b")
        )


@pytest.fixture
def part(tmp_path: Path) -> Part:
    source = tmp_path / "source"
    source.write_text("one")
    return Part(source)


def files() -> list[Path]:
    return sorted(path for path in cache_dir().rglob("*") if path.is_file())


def test_a_split_is_decoded_once(part):
    first = load_cached(part, Wanted(), "toy")
    again = load_cached(Part(*part.files), Wanted(threads=3), "toy")
    assert part.loads == 1
    assert torch.equal(again.images, first.images)
    assert again.labels.tolist() == [2, 0, 1]
    assert again.classes == ("a", "b")
    assert [path.suffix for path in files()] == [".safetensors"]


def test_writing_into_what_was_loaded_does_not_reach_the_file(part):
    load_cached(part, Wanted(), "toy")
    load_cached(part, Wanted(), "toy").images.fill_(77)
    assert int(load_cached(part, Wanted(), "toy").images.max()) == 1
    assert part.loads == 1


@pytest.mark.parametrize("change", ["content", "time"])
def test_a_changed_source_is_decoded_again_and_replaces_the_old_file(part, change):
    load_cached(part, Wanted(), "toy")
    if change == "content":
        part.files[0].write_text("three")
    else:
        os.utime(part.files[0], ns=(1, 1))
    assert int(load_cached(part, Wanted(), "toy").images[0, 0, 0, 0]) == 2
    assert int(load_cached(part, Wanted(), "toy").images[0, 0, 0, 0]) == 2
    assert len(files()) == 1


def test_other_options_and_other_sources_have_files_of_their_own(part, tmp_path):
    other = tmp_path / "other"
    other.write_text("one")
    load_cached(part, Wanted(), "toy")
    assert load_cached(part, Wanted(image_size=5), "toy").images.shape[-1] == 5
    load_cached(Part(other), Wanted(), "toy")
    assert part.loads == 2
    assert len(files()) == 3


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_damaged_cache_is_decoded_again(part, content):
    load_cached(part, Wanted(), "toy")
    (path,) = files()
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    load_cached(part, Wanted(), "toy")
    load_cached(part, Wanted(), "toy")
    assert part.loads == 2


def test_an_unwritable_cache_is_done_without(part, tmp_path, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("PRECUT_CACHE", str(blocked))
    for _ in range(2):
        assert load_cached(part, Wanted(), "toy").labels.tolist() == [2, 0, 1]
    assert part.loads == 2


def test_a_failed_write_leaves_nothing_behind(part, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    load_cached(part, Wanted(), "toy")
    assert files() == []


def test_what_has_no_files_is_not_cached():
    part = Part()
    load_cached(part, Wanted(), "toy")
    load_cached(part, Wanted(), "toy")
    assert part.loads == 2
    assert files() == []


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("PRECUT_CACHE", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "x"
    monkeypatch.delenv("PRECUT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "precut"
