"""Work directories and recipes that commands name, or do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.pipeline.workdir import WorkDir


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command",
    [
        "run teacher",
        "run student",
        "run all",
        "cache-heatmaps",
        "inspect-cache",
        "merge-caches a.zarr",
        "verify-cache",
        "evaluate",
        "predict photo.jpg",
        "export",
        "profile",
        "sweep alpha",
        "check-data",
        "run teacher -r demo",
        "run all -r demo",
        "cache-heatmaps -r demo",
        "sweep alpha -r demo",
    ],
)
def test_without_a_work_directory_none_is_made(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = fpd(*command.split())
    assert result.exit_code == 1
    assert "with -w, such as -w work/" in result.output
    assert not any(tmp_path.iterdir())


def test_the_demos_directory_is_the_default_once_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("work/demo").mkdir(parents=True)
    assert "work/demo" in fpd("evaluate").output
    refused = fpd("run", "teacher", "-r", "lsp", "--set", "data.root=.")
    assert refused.exit_code == 1 and "-w work/lsp" in refused.output
    assert not any(Path("work/demo").iterdir())


def test_a_recipe_named_again_says_what_it_changes(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    work.keep(work.recipe("demo", ("teacher.epochs=2",)))
    work.teacher.path.mkdir()
    work.write_kept(work.recipe(None, ("store.views=5",)).model_dump(mode="json"))  # as --budget
    again = fpd("evaluate", "-w", tmp_path, "-r", "demo", "--set", "teacher.epochs=2")
    assert f"recipe demo differs from {work.kept_recipe}" in again.output
    assert "store.views: kept 5, in demo 1" in again.output
    assert "teacher.epochs" not in again.output
    for options in (
        ("-r", "demo", "--set", "teacher.epochs=2", "--set", "store.views=5"),
        ("--set", "store.views=2"),
    ):
        assert "differs from" not in fpd("evaluate", "-w", tmp_path, *options).output
    assert work.recipe(None, ()).store.views == 5
