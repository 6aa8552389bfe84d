"""The hub, played by a module of our own: the real library and a network are for people's machines."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from data.makers import encode, random_images
from precut.data import load
from precut.data._known import KNOWN
from precut.errors import PrecutError

IMAGES = random_images(20, 1, 5)


class Image:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class ClassLabel:
    names = tuple("abcdefghij")


class Table:
    """What the tests need of a ``datasets.Dataset``."""

    def __init__(self, rows: list[dict], features: dict) -> None:
        self.rows = rows
        self.features = features
        self.cache_files: list[dict] = []

    def cast_column(self, name: str, feature: Image) -> Table:
        assert not feature.decode
        return Table(self.rows, self.features | {name: feature})

    def __getitem__(self, key: int | str) -> object:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def __len__(self) -> int:
        return len(self.rows)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Answers with a table of IMAGES; ``asked`` is what was asked for."""
    state = types.SimpleNamespace(
        asked=[],
        error=None,
        rows=[{"image": {"bytes": encode(image), "path": None}, "label": i % 10} for i, image in enumerate(IMAGES)],
        features={"image": Image(), "label": ClassLabel()},
    )

    def load_dataset(repository: str, split: str) -> Table:
        state.asked.append((repository, split))
        if state.error:
            raise state.error
        return Table(state.rows, state.features)

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    module.Image = Image
    monkeypatch.setitem(sys.modules, "datasets", module)
    return state


def test_a_dataset_from_the_hub(hub):
    data = load("mnist")
    assert hub.asked == [("ylecun/mnist", "train"), ("ylecun/mnist", "test")]
    assert np.array_equal(data.train.images.numpy(), IMAGES)
    assert data.train.labels.tolist() == [i % 10 for i in range(20)]
    assert data.classes == list("abcdefghij")
    assert data.source == "hub: ylecun/mnist"


def test_pictures_may_stay_there_until_they_are_needed(hub):
    data = load("mnist", lazy=True, image_size=4)
    (images,) = data.train.stream([data.train.labels[:3]])
    assert images.shape == (3, 1, 4, 4)


@pytest.mark.parametrize("name", [name for name in KNOWN if KNOWN[name].hub])
def test_every_name_knows_its_repository(hub, name):
    hub.error = ConnectionError("offline\nand more")
    with pytest.raises(PrecutError) as error:
        load(name)
    assert hub.asked == [(KNOWN[name].hub, "train")]
    assert str(error.value) == (
        f"dataset {name!r} was not found: looked nowhere on disk, since no root was given; from the hub: "
        "ConnectionError: offline. Put its files there and pass root= (--data-root) or set PRECUT_DATA, or install "
        "precut[hub] to fetch it"
    )


def test_without_the_library(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("PRECUT_DATA", str(tmp_path))
    with pytest.raises(PrecutError) as error:
        load("mnist")
    assert str(error.value) == (
        f"dataset 'mnist' was not found: looked in {tmp_path} (PRECUT_DATA) for mnist, mnist/raw, MNIST, MNIST/raw; "
        f"{tmp_path}/mnist is there, but in no format that is known; from the hub: the 'datasets' library is not "
        "installed. Put its files there and pass root= (--data-root) or set PRECUT_DATA, or install precut[hub] to "
        "fetch it"
    )


def test_bad_rows_are_named(hub):
    hub.rows[7]["label"] = -1
    with pytest.raises(PrecutError) as error:
        load("mnist")
    assert str(error.value) == "ylecun/mnist train, row 7: label -1; expected a class number, 0 to 9"
    hub.rows[7]["label"] = 7
    hub.rows[3]["image"] = {"bytes": b"junk", "path": None}
    with pytest.raises(PrecutError) as error:
        load("mnist")
    assert str(error.value) == "ylecun/mnist train, row 3: not a picture file that Pillow knows (4 bytes)"
    hub.rows[3]["image"] = None
    with pytest.raises(PrecutError) as error:
        load("mnist")
    assert str(error.value) == "ylecun/mnist train, row 3: no picture bytes in column 'image'"


def test_tables_without_pictures_labels_or_rows(hub):
    hub.rows = []
    with pytest.raises(PrecutError) as error:
        load("mnist")
    assert str(error.value) == "ylecun/mnist train: the split is empty"
    hub.features = {"image": Image(), "kind": ClassLabel()}
    with pytest.raises(PrecutError) as error:
        load("mnist")
    assert str(error.value) == "ylecun/mnist: no column of labels ('label'); it has image, kind"
    hub.features = {"text": ClassLabel()}
    with pytest.raises(PrecutError) as error:
        load("mnist")
    assert str(error.value) == "ylecun/mnist: no column of pictures; it has text"
