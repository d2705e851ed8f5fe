"""The generated pages of the documentation agree with the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generate: ModuleType) -> None:
    assert not generate.stale_pages(), "run `python docs/generate.py`"


def test_missing_or_edited_page_is_stale(generate: ModuleType, tmp_path: Path) -> None:
    assert generate.stale_pages(tmp_path) == ["commands.md", "settings.md"]
    for name, content in generate.pages().items():
        (tmp_path / name).write_text(content, "utf-8")
    assert generate.stale_pages(tmp_path) == []
    (tmp_path / "settings.md").write_text("edited", "utf-8")
    assert generate.stale_pages(tmp_path) == ["settings.md"]


def test_every_setting_has_a_description(generate: ModuleType) -> None:
    rows = [line for line in generate.settings_page().splitlines() if line.startswith("| `")]
    assert [row.split("|")[1].strip() for row in rows if row.endswith("|  |")] == []
