"""What callers do with an opened model beside running it: wrong arguments, copies, many threads."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precut.errors import PrecutError
from precut.runtime import BlobBuilder, Model, call, load


def relu(channels: int = 3) -> bytes:
    b = BlobBuilder()
    b.output(b.activation(b.input("x", (1, channels, 4, 4)), "relu"))
    return b.bytes()


X = np.ones((1, 3, 4, 4), np.float32)

LOADS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "none": (lambda p: load(None), "source must be a path or the bytes of a .precut file; got None"),  # type: ignore[arg-type]
    "int": (lambda p: load(3), "source must be a path or the bytes of a .precut file; got 3"),  # type: ignore[arg-type]
    "zero byte": (lambda p: load(f"{p}\0zzz"), "source holds a zero byte"),
    "word": (lambda p: load(p, threads="2"), "threads must be a whole number from 1 to 1024; got '2'"),  # type: ignore[arg-type]
    "half": (lambda p: load(p, threads=1.5), "threads must be a whole number from 1 to 1024; got 1.5"),  # type: ignore[arg-type]
    "wraps": (lambda p: load(p, threads=2**32 + 1), "threads must be a whole number from 1 to 1024; got 4294967297"),
    "autotune": (lambda p: load(p, autotune="no"), "autotune must be True or False; got 'no'"),  # type: ignore[arg-type]
    "isa": (lambda p: load(p, isa=2), "isa must be a name such as 'portable'; got 2"),  # type: ignore[arg-type]
    "cache": (lambda p: load(p, cache=2), "cache must be a path; got 2"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", LOADS)
def test_wrong_arguments_of_load(case: str, tmp_path: Path) -> None:
    path = tmp_path / "m.precut"
    path.write_bytes(relu())
    act, message = LOADS[case]
    with pytest.raises(PrecutError) as raised:
        act(path)
    assert str(raised.value).startswith(message)


class Foreign:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("call detach() first")


RUNS: dict[str, tuple[Callable[[Model], Any], str]] = {
    "complex": (lambda m: m.run(X.astype(complex)), "converted to float32; got an array of dtype complex128"),
    "words": (lambda m: m.run([["a"]]), "got an array of dtype <U1"),
    "ragged": (lambda m: m.run([[1], [1, 2]]), "an input of type list is no array of numbers"),
    "refuses": (lambda m: m.run(Foreign()), "an input of type Foreign is no array of numbers: call detach() first"),  # type: ignore[arg-type]
    "no image": (lambda m: m.run(X[:0]), "an input's size must be a whole number from 1 to 2147483647; got 0"),
    "wraps": (lambda m: m.prepare((2**70 + 1, 3, 4, 4)), "an input's size must be a whole number from 1"),
    "rounds": (lambda m: m.describe(rounds=-1), "rounds must be a whole number from 0"),
    "copy": (copy.copy, "an opened model cannot be copied or pickled: load the file again"),
    "deepcopy": (copy.deepcopy, "an opened model cannot be copied or pickled: load the file again"),
    "pickle": (pickle.dumps, "an opened model cannot be copied or pickled: load the file again"),
}


@pytest.mark.parametrize("case", RUNS)
def test_wrong_uses_of_a_model(case: str) -> None:
    act, message = RUNS[case]
    with load(relu(), threads=1) as model:
        with pytest.raises(PrecutError) as raised:
            act(model)
        assert message in str(raised.value)
        np.testing.assert_array_equal(model.run(X), X)


def test_bytes_that_change_later_or_are_spread_out() -> None:
    data = relu()
    writable = bytearray(data)
    spread = memoryview(bytes(b for byte in data for b in (byte, 0)))[::2]
    with load(writable, threads=1) as a, load(spread, threads=1) as b:
        writable[:] = bytes(len(writable))
        for model in (a, b):
            np.testing.assert_array_equal(model.run(-X), 0 * X)


def test_other_threads_cannot_have_a_plan_dropped_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every prepare of this thread another one wants more sizes than the library keeps plans."""
    others: list[threading.Thread] = []

    def crowd() -> None:
        for n in range(2, 12):
            model.prepare((n, 3, 4, 4))

    def prepared(name: str, *arguments: Any, **options: Any) -> int:
        status = call(name, *arguments, **options)
        if name == "precut_prepare" and threading.current_thread() is threading.main_thread():
            others.append(threading.Thread(target=crowd))
            others[-1].start()
            others[-1].join(0.1)
        return status

    with load(relu(), threads=1, autotune=False) as model:
        monkeypatch.setattr("precut.runtime._model.call", prepared)
        np.testing.assert_array_equal(model.run(X), X)
        for thread in others:
            thread.join()


@pytest.mark.parametrize("act", [lambda m: m.run(X), Model.close])
def test_runs_and_close_take_turns(act: Callable[[Model], Any]) -> None:
    """A close beside a run would free what the run reads."""
    model = load(relu(), threads=1, autotune=False)
    model.run(X)
    with model._turn:
        thread = threading.Thread(target=act, args=(model,))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert model._handle is not None
    thread.join()
    model.close()
