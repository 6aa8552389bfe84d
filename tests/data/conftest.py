"""Each test has a cache of its own and no data root, unless it asks for the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_REAL = os.environ.get("PRECUT_DATA")


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PRECUT_DATA", raising=False)


@pytest.fixture
def real_root() -> Path:
    """The folder with real datasets that ``$PRECUT_DATA`` names."""
    if not _REAL:
        pytest.skip("set PRECUT_DATA to a folder with real datasets")
    return Path(_REAL)
