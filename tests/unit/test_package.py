"""The package itself: lazy, light, typed, and public where it says so."""

import ast
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unirun

ROOT = Path(unirun.__file__).parents[1]
PROBE = "import sys, json; before = set(sys.modules); {}; print(json.dumps(sorted(set(sys.modules) - before)))"


def imported_by(statement: str) -> set[str]:
    answer = subprocess.run(
        [sys.executable, "-S", "-c", PROBE.format(statement)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return set(json.loads(answer.stdout))


def test_importing_it_imports_nothing() -> None:
    assert imported_by("import unirun") - {"json"} <= {"unirun"}


def test_the_table_of_names_is_the_public_api() -> None:
    assert set(unirun._HOME) == set(unirun.__all__)
    for name in unirun.__all__:
        value = getattr(unirun, name)
        assert value.__module__ == f"unirun.{unirun._HOME[name]}", name
        assert value.__doc__, name
    assert set(unirun.__all__) <= set(dir(unirun))
    with pytest.raises(AttributeError, match="'unirun' has no attribute 'nothing'"):
        _ = unirun.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "used", ["cli.main", "trace.add_listener", "autopatch.disabled", "errors.ConfigError", "compat"]
)
def test_what_the_docs_call_by_its_whole_name_is_there(used: str) -> None:
    """``import unirun`` is all that a reader of them has written."""
    code = f"import unirun; unirun.{used}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_every_module_says_in_its_first_line_why_it_exists() -> None:
    for module in pkgutil.walk_packages(unirun.__path__, "unirun."):
        if module.name == "unirun.__main__":
            continue  # importing it runs it
        if module.name.endswith(".interpreter") and sys.version_info < (3, 14):
            continue
        doc = importlib.import_module(module.name).__doc__ or ""
        assert doc.splitlines()[0].endswith((".", ":")), module.name


def test_no_module_loads_dataclasses() -> None:
    """Not even where the stdlib has loaded it (from Python 3.14 on): what it generates for a class costs as much."""
    for path in (ROOT / "unirun").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                assert "dataclasses" not in [alias.name for alias in node.names], path.name
            elif isinstance(node, ast.ImportFrom):
                assert node.module != "dataclasses", path.name


def test_modules_are_short() -> None:
    long = {p.name: n for p in (ROOT / "unirun").rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long


FLOORS = [
    {"values", "pickling", "clock", "ending"},
    {"caller", "errors", "fresh", "refusal", "kinship", "semaphore"},
    {"config"},
    {"host", "trace"},
    {"ladder", "aside"},
    {"opening", "backends", "offloop"},
    {"managed"},
    {"maps", "thread"},
    {"process"},
    {"pools"},
    {"leases"},
    {"mapping", "scope", "aio"},
    {"compat", "autopatch"},
    {"doctor"},
    {"runner"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: n for n, names in enumerate(FLOORS) for name in names}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of the package that some code imports, those for type checkers aside."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "unirun":
            yield from (alias.name for alias in node.names if alias.name in FLOOR)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unirun."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("unirun."))
        else:
            yield from imports(node)


def test_imports_go_down_only() -> None:
    """A module imports from lower floors, or from its own package; never from above."""
    checked = 0
    for path in (ROOT / "unirun").rglob("*.py"):
        own = path.relative_to(ROOT / "unirun").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for other in imports(ast.parse(path.read_text())):
            assert other == own or FLOOR[other] < FLOOR[own], f"{path.name} imports {other}"
            checked += 1
    assert checked > 50


def named(path: Path) -> Iterator[str]:
    """Yield the modules that a bundler finds by reading one: what it says it imports, those for type checkers aside."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending += node.orelse
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            pending += ast.iter_child_nodes(node)


def test_bundlers_find_all_modules() -> None:
    """Nuitka and PyInstaller take what some module names that they took, and not what is imported by a made up name."""
    modules = {}
    for path in (ROOT / "unirun").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    taken, pending = set[str](), ["unirun"]
    while pending:
        if (name := pending.pop()) in modules and name not in taken:
            taken.add(name)
            pending += [name.rpartition(".")[0], *named(modules[name])]
    startup = {"unirun.autopatch.startup", "unirun.autopatch.startup.sitecustomize"}  # a folder for PYTHONPATH
    assert modules.keys() - taken <= {"unirun.__main__", *startup}
