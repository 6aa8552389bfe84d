"""Freed memory is kept within, and goes back afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

from precut.training import _memory

SCRIPT = """
import torch
from precut.training import kept_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def rise(megabytes=64):
    before = resident()
    tensor = torch.ones(megabytes << 20, dtype=torch.uint8)
    del tensor
    return (resident() - before) >> 20

print(rise())
with kept_memory():
    with kept_memory():
        print(rise())
    print(rise(56))  # fits into what was freed, whatever alignment takes
print(rise())
"""


@pytest.mark.skipif(_memory._libc() is None or sys.platform != "linux", reason="needs glibc and /proc")
def test_memory_is_kept_within_and_given_back_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, first, second, after = map(int, done.stdout.split())
    assert before < 32
    assert first >= 48  # kept
    assert second < 16  # and used again
    assert after < 32


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "_libc", lambda: None)
    with _memory.kept_memory():
        assert _memory._depth == 0
