"""The native library under Python: image sizes behind a flatten, forks, threads that the system does not grant, files
that change, many outputs, several models tuned at once. (csrc/tests/test_life.cpp is the same for C.)"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from precut.errors import PrecutError
from precut.runtime import BlobBuilder, load

from .test_model import small_net


def alone(code: str, *arguments: object) -> str:
    """What a Python of its own prints; one that hangs or dies fails the test."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("size", [16, 1])
@pytest.mark.parametrize("isa", [None, "reference"])
def test_a_flatten_of_another_size_is_refused(size: int, isa: str | None) -> None:
    b = BlobBuilder()
    b.output(b.flatten(b.activation(b.input("x", (1, 4, size, size)), "relu"), name="flat"))
    x = np.random.default_rng(0).standard_normal((3, 4, size, size)).astype(np.float32)
    with load(b.bytes(), threads=1, autotune=False, isa=isa) as model:
        for shape in ((1, 4, 8, 8), (4, 4, 24, 20)):
            with pytest.raises(
                PrecutError, match=rf"flat \(flatten\): .*; the network was compiled for {4 * size**2} here"
            ):
                model.prepare(shape)
        np.testing.assert_array_equal(model.run(x), np.maximum(x, 0).reshape(3, -1))


def test_more_outputs_than_any_fixed_number() -> None:
    b = BlobBuilder()
    x = b.input("x", (1, 8, 4, 4))
    for _ in range(100):
        b.output(b.activation(x, "relu"))
    values = np.random.default_rng(0).standard_normal((2, 8, 4, 4)).astype(np.float32)
    with load(b.bytes(), threads=1, autotune=False) as model:
        results = model.run(values)
    assert len(results) == 100
    for result in results:
        np.testing.assert_array_equal(result, np.maximum(values, 0))


FORK = """
import os, sys
import numpy as np
from precut import runtime
x = np.ones((2, 3, 16, 16), np.float32)
model = runtime.load(sys.argv[1], threads=2, autotune=False)
want = model.run(x)
child = os.fork()
if child == 0:
    same = np.array_equal(model.run(x), want)
    sys.exit(0 if same else 1)  # frees the model
print(os.waitpid(child, 0)[1], np.array_equal(model.run(x), want))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_runs_and_frees_the_model(tmp_path: Path) -> None:
    (tmp_path / "m.precut").write_bytes(small_net())
    assert alone(FORK, tmp_path / "m.precut").split() == ["0", "True"]


THREADS = """
import resource, sys
from pathlib import Path
import numpy as np
from precut import runtime
from precut.errors import PrecutError
runtime.load(sys.argv[1], threads=1).close()
most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    runtime.load(sys.argv[1], threads=1000)
except PrecutError as error:
    print(error)
x = np.ones((2, 3, 16, 16), np.float32)
print(runtime.load(sys.argv[1], threads=2, autotune=False).run(x).shape)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_threads_that_the_system_does_not_grant(tmp_path: Path) -> None:
    (tmp_path / "m.precut").write_bytes(small_net())
    message, shape = alone(THREADS, tmp_path / "m.precut").splitlines()
    assert message.startswith("the system grants ")
    assert "of 1000 threads" in message
    assert shape == "(2, 10)"


CHANGED = """
import os, sys
import numpy as np
from precut import runtime
from precut.errors import PrecutError
x = np.ones((2, 3, 16, 16), np.float32)
model = runtime.load(sys.argv[1], threads=1, autotune=False)
want = model.run(x)
os.truncate(sys.argv[1], 100)
try:
    model.run(x[:1])
except PrecutError as error:
    print(error)
print(np.array_equal(model.run(x), want))
"""


def test_a_shortened_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.precut"
    path.write_bytes(small_net())
    message, same = alone(CHANGED, path).splitlines()
    assert message == f'the model file "{path}" has changed since it was opened: load it again'
    assert same == "True"


def test_why_a_file_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(PrecutError, match=r"none\.precut.*No such file"):
        load(tmp_path / "none.precut")
    with pytest.raises(PrecutError, match="it is a folder"):
        load(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(PrecutError, match="signature"):
        load(tmp_path / "empty")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = (
        "import sys; from precut import runtime\n"
        "try: runtime.load(sys.argv[1])\n"
        "except Exception as error: print(error)"
    )
    assert "it is not a regular file" in alone(code, tmp_path / "pipe")


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_models_tuned_at_once_all_keep_their_results(tmp_path: Path) -> None:
    channels = [8 + 4 * i for i in range(6)]  # small: which candidates there are then depends on nothing measured
    blobs = [small_net(channels=c) for c in channels]
    start = threading.Barrier(len(blobs))

    def tune(i: int) -> None:
        start.wait()
        with load(blobs[i], threads=1, cache=tmp_path / "all" / "tune.txt") as model:
            for n in range(1, 5):
                model.prepare((n, 3, 8, 8))

    def keys(path: Path) -> set[str]:
        return {line.split("\t")[0] for line in path.read_text().splitlines()}

    in_threads(tune, len(blobs))
    each: set[str] = set()
    for i, blob in enumerate(blobs):
        with load(blob, threads=1, cache=tmp_path / f"{i}.txt") as model:
            for n in range(1, 5):
                model.prepare((n, 3, 8, 8))
        each |= keys(tmp_path / f"{i}.txt")
    assert keys(tmp_path / "all" / "tune.txt") == each
    assert [p.name for p in (tmp_path / "all").iterdir()] == ["tune.txt"]
