"""A small dataset on disk, and the command run in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precut.cli import main


@dataclass
class Done:
    """What a command left: exit code, standard output, lines on standard error."""

    code: int
    out: str
    err: list[str]


Command = Callable[..., Done]


@pytest.fixture
def precut(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs ``precut WORDS...``."""

    def run(*words: object) -> Done:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Done(code, out, err.splitlines())

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey 12x12 pictures, 24 training and 12 test ones, of two classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, base in (("dark", 0), ("light", 150)):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(random.integers(base, base + 100, (12, 12), dtype=np.uint8)).save(
                    place / f"{index}.png"
                )
    return folder
