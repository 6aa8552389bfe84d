"""Help, lists, checks, reproduce, and the command as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from golden import check_golden
from precut.cli._main import COMMANDS

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("models", "supports", "data", "recipes", "claims", "kernels")


def process(*words: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, env=path)


def test_help(precut) -> None:
    assert precut().out == precut("--help").out
    check_golden(precut("--help").out.rstrip(), GOLDEN / "help.txt")
    assert precut("--version").out == "precut 0.1.0\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(precut, command) -> None:
    done = precut(command, "--help")
    assert (done.code, done.err) == (0, [])
    assert done.out.startswith(f"usage: precut {command}")
    assert "--json" in done.out


def test_help_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from precut.cli import main\n"
        "for words in (['--help'], *([c, '--help'] for c in sys.argv[1:]), ['demo', '--nothing']): main(words)\n"
        "print(*{'torch', 'numpy', 'yaml', 'rich'} & set(sys.modules), sep=',', end='<')"
    )
    done = process("-c", code, *COMMANDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n<")


def test_as_a_module() -> None:
    done = process("-m", "precut", "tarin")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "precut: error: unknown command 'tarin': did you mean 'train'?\n"
    assert process("-m", "precut", "--help").returncode == 0


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'precut', 'list', 'kernels', '--json'], stdout=subprocess.PIPE,"
        " stderr=subprocess.PIPE)\n"
        "p.stdout.close(); err = p.stderr.read(); print(p.wait(), err)"
    )
    assert process("-c", code).stdout == "141 b''\n"


@pytest.mark.parametrize("kind", KINDS)
def test_list(precut, kind) -> None:
    rows = json.loads(precut("list", kind, "--json").out)
    text = precut("list", kind).out
    assert len({row["name"] for row in rows}) == len(rows) > 0
    assert [line.split()[0] for line in text.splitlines()[2 : 2 + len(rows)]] == [row["name"] for row in rows]


@pytest.mark.parametrize("kind", ["supports", "data"])
def test_list_as_printed(precut, kind) -> None:
    check_golden(precut("list", kind).out.rstrip(), GOLDEN / f"list-{kind}.txt")


def test_list_of_some(precut) -> None:
    rows = json.loads(precut("list", "models", "resnet?0", "--json").out)
    assert [row["name"] for row in rows] == ["resnet20", "resnet50"]


def test_checks(precut, tmp_path) -> None:
    (tmp_path / "CIFAR10").mkdir()  # there, but empty: not a dataset
    done = precut("checks", "--data-root", tmp_path, "--json")
    found = json.loads(done.out)
    assert done.code == 0, done.err
    assert found["datasets"]["fashion-mnist-sample"].endswith("fashion-mnist")
    assert found["datasets"]["cifar10"] is None
    assert found["versions"]["torch"] is not None
    assert found["native_library"]["found"] in (True, False)
    assert bool(found["energy_counters"]) or found["energy_missing"]
    assert set(found["optional"]) == {"datasets", "tensorboard", "torchvision", "timm"}
    text = precut("checks").out
    for word in ("python ", "processor ", "vector flags ", "native library ", "energy ", "torchvision "):
        assert f"\n{word}" in f"\n{text}"


CLAIM = """
question: Which of two?
data: {data}
input_size: 12
recipe: {{name: demo, epochs: 1, val_count: 4, batch_size: 20, crop_padding: 0}}
runs:
  - {{name: a, model: speednet, kwargs: {{widths: [4, 8, 8]}}, seeds: [0, 1], group: one}}
  - {{name: b, model: speednet, kwargs: {{widths: [4, 8, 8]}}, support: PS4_P4, group: one}}
"""


def test_reproduce(precut, tiny, tmp_path) -> None:
    claim = tmp_path / "two.yaml"
    claim.write_text(CLAIM.format(data=tiny))
    words = ("reproduce", claim, "--results", tmp_path / "results", "--runs-dir", tmp_path / "runs", "--threads", 1)
    done = precut(*words, "--only", "a-*", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)
    file = tmp_path / "results" / "two" / "rows.csv"
    lines = [line.rsplit('"}",', 1)[-1] for line in file.read_text().splitlines()]
    assert len(lines) == 3
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs" / "two").glob("a-s*/result.json"))]
    first, second = (round(result["test_accuracy"], 4) * 100 for result in results)
    assert row["test_mean"] == pytest.approx((first + second) / 2)
    assert row["test_sd"] == pytest.approx(abs(first - second) / 2**0.5)
    assert row["seeds"] == 2
    assert precut(*words).code == 0
    assert len(file.read_text().splitlines()) == 4
    done = precut(*words)
    assert not [line for line in done.err if line.startswith("epoch ")]  # all is there
    assert "3 of 3 runs" in done.out
    assert precut(*words, "--show").out == done.out
