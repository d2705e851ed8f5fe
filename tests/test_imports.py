"""Imports run downwards only, room by room; inside the package they are relative."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"cli"},
    {"commands"},
    {"stages"},
    {"training", "caching"},
    {"teachers", "store", "evaluation"},
    {"workdir"},
    {"config"},
    {"models"},
    {"runtime"},
    {"data"},
]
"""From top to bottom. Rooms of one floor know nothing of each other."""

SOURCES = [
    path
    for part in ("cli.py", "commands", "stages", "pipeline", "data")
    for path in ([ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py")))
    if path != ROOT / "pipeline" / "__init__.py"
]


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module, given its path below the root, or its dotted name's parts."""
    inside = parts[1:] if parts[0] == "pipeline" else parts
    return inside[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[str, ...]]:
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
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    parts = path.relative_to(ROOT).parts
    room = room_of(parts)
    for module in imported(path):
        if module == ("__version__",):
            continue
        other = room_of(module)
        if room == other == "stages":
            assert parts[-1] == "__init__.py", f"stages meet only through files: {module}"
        assert room == other or floor_of[other] > floor_of[room], f"{path} imports {module}"
