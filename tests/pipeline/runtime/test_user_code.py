"""Functions that a command names are imported from the user's modules, or refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fpd.pipeline.runtime.user_code import import_function


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_the_user.py").write_text("def make():\n    return 7\n\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "of_the_user", raising=False)


def test_a_function_of_the_working_directory_is_found() -> None:
    before = list(sys.path)
    assert import_function("of_the_user:make", "--callback")() == 7
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of_the_user:other", "expected a function other in a module of_the_user"),
        ("nowhere.at.all:make", "expected a function make in a module nowhere.at.all"),
        (":make", "expected a function make in a module"),
        ("of_the_user:number", "expected a function, found int"),
        ("of_the_user.py:make", "write of_the_user:make, without .py"),
    ],
)
def test_others_are_refused_with_the_option(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        import_function(name, "--callback")
    assert f"--callback {name}" in str(caught.value)


def test_a_module_that_fails_is_named_with_its_error() -> None:
    Path("broken_module.py").write_text("import os\n\n1 / 0\n")
    with pytest.raises(ValueError, match="found ZeroDivisionError: division by zero"):
        import_function("broken_module:make", "--callback")
    Path("unfinished_module.py").write_text("def make(:\n")
    with pytest.raises(ValueError, match=r"SyntaxError: .*unfinished_module\.py, line 1"):
        import_function("unfinished_module:make", "--callback")
