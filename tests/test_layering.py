"""The rooms and their floors: an import never runs upward, rooms never import each other in a circle, and importing
precut costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import precut

PACKAGE = Path(precut.__file__).parent

FLOORS = {
    **dict.fromkeys(["errors", "_registry", "_files", "_environment", "graph", "report"], 1),
    **dict.fromkeys(["supports", "data", "models", "runtime"], 2),
    "ops": 3,
    "layers": 4,
    **dict.fromkeys(["checkpoint", "measure", "pruning", "engine"], 5),
    "training": 6,
    **dict.fromkeys(["topology", "dynamic", "deadline", "bench"], 7),
    "experiments": 8,
    "cli": 9,
    "__main__": 10,
    "": 10,  # precut/__init__.py itself, which names everything and which nothing may need
}
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("precut", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in FILES
}
HEAVY = (
    "matplotlib",
    "pyarrow",
    "PIL",
    "lightning",
    "lightning_fabric",
    "datasets",
    "yaml",
    "tensorboard",
    "optuna",
    "ray",
    "sqlalchemy",
    "psycopg",
)
FOREIGN = ("torchvision", "timm", "torchaudio", "tensorflow", "sklearn", "scipy", "pandas")


def room_of(module: str) -> str:
    """The room of precut that a module lies in; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    return FLOORS[room_of(module)]


def imports_of(module: str, tree: ast.AST | None = None) -> Iterator[tuple[str, int]]:
    """Every module that a module imports anywhere, in functions too, with the line. Names of a package that are modules
    count as these."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            source = base if node.level else node.module or ""
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield (inner if inner in MODULES else source), node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno


def own_imports(module: str) -> list[tuple[str, int]]:
    return [(name, line) for name, line in imports_of(module) if name.split(".")[0] == "precut"]


def top_level_imports(module: str) -> set[str]:
    """The first parts of what importing the module itself imports: statements outside functions."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    skipped = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not isinstance(child, skipped) and not typing_only:
                yield child
                yield from walk(child)

    statements = [node for node in walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {name.split(".")[0] for name, _ in imports_of(module, ast.Module(body=list(statements), type_ignores=[]))}


def crossings() -> Iterator[tuple[str, str, str]]:
    """(importer, imported, place) of every import between rooms. All modules in one test: none may be sampled away."""
    for module in MODULES:
        for name, line in own_imports(module):
            if room_of(name) != room_of(module):
                yield module, name, f"{MODULES[module].relative_to(PACKAGE)}:{line} imports {name}"


def test_every_room_has_a_floor() -> None:
    homeless = {room_of(module) for module in MODULES} - set(FLOORS)
    assert homeless == set(), f"give these rooms a floor in {__file__}, and in docs/architecture.md"


def test_no_import_runs_upward() -> None:
    upward = [place for user, used, place in crossings() if user != "precut" and floor(used) > floor(user)]
    assert upward == []


def test_rooms_use_each_others_public_names() -> None:
    """A room's underscored modules are its own. (Underscored files beside the rooms are everybody's.)"""
    private = [place for _, used, place in crossings() if any(part.startswith("_") for part in used.split(".")[2:])]
    assert private == []


def test_rooms_do_not_import_in_a_circle() -> None:
    needs: dict[str, set[str]] = {room: set() for room in FLOORS}
    for module in MODULES:
        if module != "precut":
            needs[room_of(module)] |= {room_of(name) for name, _ in own_imports(module)} - {room_of(module)}
    while free := [room for room, others in needs.items() if not others & set(needs)]:
        for room in free:
            del needs[room]
    assert needs == {}, "these rooms wait for each other"


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    found = {module: top_level_imports(module) & set(HEAVY) for module in MODULES}
    assert {module: names for module, names in found.items() if names} == {}


def test_the_core_never_imports_other_model_libraries() -> None:
    found = {module: {name.split(".")[0] for name, _ in imports_of(module)} & set(FOREIGN) for module in MODULES}
    assert {module: names for module, names in found.items() if names} == {}


def test_the_imports_are_found() -> None:
    """The parser above sees what is there: known imports, and each kind of statement."""
    assert "precut.errors" in dict(own_imports("precut._registry"))
    assert "precut.supports" in dict(own_imports("precut.ops._expand"))
    assert top_level_imports("precut.supports._support") >= {"torch", "json", "precut"}
    assert len(list(crossings())) > 50
    tree = ast.parse(
        "from . import _names\nfrom .. import errors\nfrom ..ops import expand\ndef f():\n    import timm\n"
        "    importlib.import_module('precut.cli')\n"
    )
    assert [name for name, _ in imports_of("precut.supports._support", tree)] == [
        *("precut.supports._names", "precut.errors", "precut.ops", "timm", "precut.cli")
    ]


def run(code: str) -> str:
    path = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_precut_loads_nothing() -> None:
    heavy = ("torch", "numpy", "safetensors", *HEAVY, *FOREIGN)
    code = "import sys, precut; precut.PrecutError; dir(precut); print(*sys.modules)"
    loaded = {name.split(".")[0] for name in run(code).split()}
    assert loaded & set(heavy) == set()
    assert "precut" in loaded


def test_importing_every_room_loads_no_heavy_library_and_starts_no_device() -> None:
    rooms = sorted({room_of(module) for module in MODULES} - {""})
    code = (
        f"import sys, importlib\nfor room in {rooms}: importlib.import_module('precut.' + room)\n"
        "import torch\nassert not torch.cuda.is_initialized()\nprint(*sys.modules)"
    )
    loaded = {name.split(".")[0] for name in run(code).split()}
    assert loaded & ({*HEAVY, *FOREIGN} - {"yaml"}) == set()  # torch itself loads yaml in places


@pytest.mark.skipif("precut.runtime" not in MODULES, reason="there is no runtime yet")
def test_the_runtime_never_needs_torch() -> None:
    seen: set[str] = set()
    waiting = [module for module in MODULES if room_of(module) == "runtime"]
    while waiting:
        module = waiting.pop()
        seen.add(module)
        for name, line in imports_of(module):
            assert name.split(".")[0] != "torch", f"{MODULES[module]}:{line}"
            if name in MODULES and name not in seen and name != "precut":
                waiting.append(name)
    assert "torch" not in run("import sys, precut.runtime; print(*sys.modules)").split()


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: f"precut.{room}" for name, room in precut._NAMES.items()}
    assert set(precut.__all__) <= set(dir(precut))


def test_every_lazy_name_is_there() -> None:
    assert [name for name in precut.__all__ if getattr(precut, name, None) is None] == []


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'precut' has no attribute 'prunes'"):
        _ = precut.prunes
