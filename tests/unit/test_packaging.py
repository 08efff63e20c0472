"""The namespace package, its layers, and what the trainer must never import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = tuple(
    tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"]
)


@pytest.mark.parametrize("name", SOURCE_ROOTS)
def test_a_source_root_holds_one_typed_package_of_the_namespace(name: str) -> None:
    namespace = ROOT / name / "lookonce"
    assert not (namespace / "__init__.py").exists(), "lookonce is a namespace package: an __init__.py would hide others"
    beside = ["api.py", "py.typed", "testing.py"] if name == "commands" else []
    assert sorted(child.name for child in namespace.iterdir() if child.name != "__pycache__") == sorted([name, *beside])
    assert (namespace / name / "__init__.py").is_file()
    assert (namespace / name / "py.typed").is_file()


def test_every_package_folder_is_a_package() -> None:
    for name in SOURCE_ROOTS:
        for module in (ROOT / name / "lookonce" / name).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), f"{module.parent} lacks __init__.py"


def test_git_ignores_no_module() -> None:
    """A wheel contains nothing that .gitignore names, tracked or not."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    modules = [str(path) for name in SOURCE_ROOTS for path in (ROOT / name / "lookonce").rglob("*.py")]
    asked = ["git", "check-ignore", "--no-index", "--stdin"]
    ended = subprocess.run(asked, cwd=ROOT, input="\n".join(modules), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")


def packages() -> list[Path]:
    return sorted(
        init.parent for name in SOURCE_ROOTS for init in (ROOT / name / "lookonce" / name).rglob("__init__.py")
    )


@pytest.mark.parametrize("folder", packages(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_package_is_small_and_says_where_to_begin(folder: Path) -> None:
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert len(modules) <= 15, f"{len(modules)} modules: make sub-packages"
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    assert docstring.endswith("."), "no docstring"
    named = re.findall(r"``([\w/]+(?:\.py|/))``", docstring)
    assert [name for name in named if not (folder / name).exists()] == []
    assert named or len(modules) <= 3, "the docstring should name the file to open first"


def test_import_contracts_are_kept() -> None:
    pytest.importorskip("importlinter")
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_documents_import_no_torch() -> None:
    code = (
        "import sys, lookonce.storage_schemas.manifest, lookonce.storage_schemas.precision\n"
        "import lookonce.cache.read.reader\n"
        "print([name for name in ('torch', 'ray', 'timm') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_registry_is_named_anywhere() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    hosts = ["pypi" + ".org", "files.python" + "hosted", "index" + "-url ="]
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".yml", ""} and path.is_file():
            text = path.read_text("utf-8", errors="ignore")
            assert not [host for host in hosts if host in text], name
