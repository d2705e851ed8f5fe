"""Imports run downwards only, layer by layer; inside the package they are relative."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"cli", "api"},
    {"commands"},
    {"stages"},
    {"prediction"},
    {"training", "caching", "detectors"},
    {"teachers", "store", "evaluation"},
    {"workdir"},
    {"config"},
    {"models"},
    {"runtime"},
    {"data"},
]
"""From top to bottom. Folders of one layer do not import each other."""

SOURCES = [
    path
    for part in ("cli.py", "api.py", "commands", "stages", "pipeline", "data")
    for path in ([ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py")))
    if path != ROOT / "pipeline" / "__init__.py"
]


def folder_of(parts: tuple[str, ...]) -> str:
    """The folder of a module, given the parts of its path, or of its name, below the root."""
    inside = parts[1:] if parts[0] == "pipeline" else parts
    return inside[0].removesuffix(".py")


def imported_modules(path: Path) -> list[tuple[str, ...]]:
    """The package's modules that a file imports, as parts of their names below the root."""
    folder = path.relative_to(ROOT).parts[:-1]
    modules = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level or (node.module or "").split(".")[0] != "fpd", "imports are relative"
            if node.level:
                base = folder[: len(folder) - node.level + 1]
                named = tuple(node.module.split(".")) if node.module else ()
                modules += [(*base, *named, alias.name) for alias in node.names]
    return modules


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    layer_of = {folder: number for number, folders in enumerate(LAYERS) for folder in folders}
    folder = folder_of(path.relative_to(ROOT).parts)
    for module in imported_modules(path):
        if module == ("__version__",):
            continue
        other = folder_of(module)
        assert not (folder == other == "stages"), f"stages meet only through files: {module}"
        assert folder == other or layer_of[other] > layer_of[folder], f"{path} imports {module}"
