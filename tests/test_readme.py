"""The README's commands do what they say, and its links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run(arguments: list[str], folder: Path) -> str:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_python(tmp_path):
    first, second = blocks(README, "python")
    (tmp_path / "first.py").write_text(first)
    assert "PSD1_P16" in run(["first.py"], tmp_path)
    assert (tmp_path / "small.safetensors").is_file()
    (tmp_path / "second.py").write_text(second)
    lines = run(["second.py"], tmp_path).splitlines()
    assert "3,868 of 77,360 weights kept" in lines[0]
    assert lines[-1] == "small"


def test_commands(tmp_path):
    lines = [line for block in blocks(README, "bash") for line in block.splitlines() if line.startswith("precut ")]
    assert len(lines) >= 5
    for line in lines:
        assert run(["-m", "precut", *shlex.split(line, comments=True)[1:]], tmp_path)
    assert (tmp_path / "runs" / "first" / "model.safetensors").is_file()


def test_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README + CONTRIBUTING, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_adding_a_support(tmp_path):
    (block,) = blocks(CONTRIBUTING, "python")
    check = "\nimport torch, precut\nmask = Checker().mask((4, 4, 3, 3))\nprint(int(mask.sum()), mask[0, 0].int().tolist())\n"
    (tmp_path / "block.py").write_text(block + check)
    assert run(["block.py"], tmp_path) == "72 [[1, 0, 1], [0, 1, 0], [1, 0, 1]]\n"


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
