"""The native library for these tests: the packaged one, else PRECUT_LIB; without either they are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from precut import runtime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if runtime.available():
        return
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.fspath).parents:
            item.add_marker(pytest.mark.skip(reason="the native library is not built"))


@pytest.fixture(autouse=True)
def _no_tuning_cache() -> None:
    os.environ["PRECUT_CACHE"] = ""
