"""One thread a worker, and the sampling of large parametrised batteries by a printed seed."""

from __future__ import annotations

import os
import random
from collections import defaultdict

import pytest

SAMPLE_LIMIT = 12  # of each parametrised test, that many cases are drawn

os.environ.setdefault("PRECUT_CACHE", os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "precut"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample", metavar="SEED", help=f"run at most {SAMPLE_LIMIT} cases of each parametrised test, drawn by SEED"
    )


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(1)


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("--sample")
    return f"battery sampled by seed {seed} (repeat with SEED={seed})" if seed else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The longest first, so that no process is left with them when the others have nothing more to do.
    items.sort(key=lambda item: not item.nodeid.startswith("tests/test_readme"))
    seed = config.getoption("--sample")
    if not seed:
        return
    groups: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        groups[item.nodeid.split("[")[0]].append(item)
    kept: set[str] = set()
    for name, group in groups.items():
        draw = random.Random(f"{seed}{name}")
        kept |= {item.nodeid for item in draw.sample(group, min(SAMPLE_LIMIT, len(group)))}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
    items[:] = [item for item in items if item.nodeid in kept]
