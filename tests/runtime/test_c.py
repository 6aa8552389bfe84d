"""The C example, compiled with the system's C compiler against the installed library, gives what Python gives."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import precut
from precut import runtime
from precut.runtime import _lib

SOURCES = Path(__file__).parent.parent.parent / "csrc"
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_c_example(tmp_path: Path) -> None:
    source = SOURCES / "examples" / "run.c"
    assert len(source.read_text().splitlines()) <= 60
    library = _lib._path()
    assert COMPILER is not None
    assert library is not None
    program = tmp_path / "run"
    command = [COMPILER, str(source), "-std=c99", "-Wall", "-Werror", f"-I{SOURCES / 'include'}", str(library)]
    subprocess.run([*command, f"-Wl,-rpath,{library.parent}", "-o", str(program)], check=True)
    model = precut.sparsify(precut.create_model("resnet8"), "PSD1_P16").eval()
    x = torch.randn(3, 3, 32, 32)
    precut.export(model, tmp_path / "m.precut", x[:1])
    x.numpy().tofile(tmp_path / "x.f32")
    done = subprocess.run(
        [str(program), str(tmp_path / "m.precut"), "3", str(tmp_path / "x.f32")],
        check=True,
        capture_output=True,
        text=True,
    )
    found = np.array([float(word) for word in done.stdout.split()])
    with runtime.load(tmp_path / "m.precut") as loaded:
        expected = loaded.run(x.numpy()).ravel()
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-4, atol=1e-5)
    assert len(found) == 16
    damaged = tmp_path / "damaged.precut"
    damaged.write_bytes((tmp_path / "m.precut").read_bytes()[:-9])
    failed = subprocess.run([str(program), str(damaged)], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.strip()
