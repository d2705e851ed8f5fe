"""`fpd config`: every setting and recipe is listed, and a printed recipe is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.pipeline.config.recipe import load_recipe, shipped_recipes
from fpd.pipeline.config.reference import sections
from fpd.pipeline.workdir import WorkDir

HEAVY = ("torch", "cv2", "zarr", "dask", "scipy", "matplotlib")


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_all_recipes_and_settings_are_listed() -> None:
    result = fpd("config")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    first_words = {words[0] for words in lines if words}
    keys = {setting.key for section in sections() for setting in section.settings}
    assert keys | set(shipped_recipes()) <= first_words


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_printed_recipe_is_that_recipe(name: str, tmp_path: Path) -> None:
    override = "data.root=/data" if name != "demo" else "student.alpha=0.75"
    result = fpd("config", "show", "-r", name, "--set", override)
    assert result.exit_code == 0, result.output
    file = tmp_path / "shown.toml"
    file.write_text(result.output, "utf-8")
    assert load_recipe(str(file)) == load_recipe(name, [override])
    assert f"# --set {override}" in result.output
    assert "# recipe" in result.output and "# default" in result.output


def test_the_recipe_of_a_work_directory_is_shown(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    work.keep(work.recipe("demo", ("student.epochs=3",)))
    result = fpd("config", "show", "-w", tmp_path)
    assert f"# {work.kept_recipe}" in result.output
    [line] = [line for line in result.output.splitlines() if line.startswith("epochs = 3 ")]
    assert line.endswith(str(work.kept_recipe))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-r", "lps"), "did you mean `lsp`"),
        (("-r", "demo", "--set", "student.alhpa=1"), "did you mean `student.alpha`"),
        ((), "name one with -w"),
        (("-w", "nowhere"), "has no recipe yet"),
    ],
)
def test_mistakes_end_in_one_message(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = fpd("config", "show", *arguments)
    assert result.exit_code == 1 and message in result.output
    assert not any(tmp_path.iterdir())


COMMANDS = [
    ("run", "teacher"),
    ("run", "student"),
    ("run", "all"),
    ("demo",),
    ("cache-heatmaps",),
    ("cache-heatmaps", "--workers", "2"),
    ("inspect-cache",),
    ("merge-caches", "a.zarr"),
    ("verify-cache",),
    ("evaluate",),
    ("predict", "photo.jpg"),
    ("export",),
    ("profile",),
    ("sweep", "--grid", "student.alpha=0,1"),
    ("check-data",),
    ("config", "show"),
]

IMPORTS = """
import sys
from fpd.cli import main
for command in {commands}:
    try:
        main(command)
    except SystemExit as error:
        assert error.code == 1, command
print([name for name in {heavy} if name in sys.modules])
"""


def test_no_command_imports_heavy_packages_before_it_checks_settings(tmp_path: Path) -> None:
    commands = [
        [*command, "-r", "demo", "-w", "new", "--set", "student.alhpa=1"] for command in COMMANDS
    ]
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(commands=commands, heavy=HEAVY)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr.count("did you mean `student.alpha`?") == len(COMMANDS)
    assert ended.stdout.strip() == "[]"
    assert not any(tmp_path.iterdir())
