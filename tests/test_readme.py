"""The README is true: its commands parse, its settings exist, its snippet runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from fpd.cli import main
from fpd.pipeline.recipe import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def console_lines() -> list[str]:
    """Commands of the console blocks, continuation lines joined."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def fpd_commands() -> list[list[str]]:
    inline = re.findall(r"`(fpd [^`\n]+)`", README)
    lines = [line for line in [*console_lines(), *inline] if line.startswith("fpd ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("arguments", fpd_commands(), ids=" ".join)
def test_every_command_of_the_readme_parses(arguments: list[str], tmp_path: Path) -> None:
    # Files that a command names need not be there for its options to be right.
    arguments = [str(tmp_path) if word.startswith("work/") else word for word in arguments]
    command: click.Command = main
    context: click.Context | None = None
    while isinstance(command, click.Group):
        name, rest = arguments[0], arguments[1:]
        context = click.Context(command, parent=context, info_name=name)
        found = command.get_command(context, name)
        assert found is not None, f"no command {name!r}"
        command, arguments = found, rest
    parsed = command.make_context(command.name, arguments, parent=context)
    load_recipe("lsp", ["data.root=datasets", *parsed.params.get("overrides", ())])


def leaf_commands(group: click.Group, prefix: str) -> list[str]:
    names = []
    for name, command in group.commands.items():
        below = isinstance(command, click.Group)
        names += leaf_commands(command, f"{prefix} {name}") if below else [f"{prefix} {name}"]  # type: ignore[arg-type]
    return names


@pytest.mark.parametrize("name", leaf_commands(main, "fpd"))
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for targets in re.findall(r"(?:^\$ |`)make ([a-z ]+)", README, re.MULTILINE):
        for target in targets.split():
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_file_that_the_readme_names_exists() -> None:
    for name in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / name).exists(), name
    tree = README.split("## How it is built")[1]
    for name in re.findall(r"[a-z_]+\.(?:py|md)", tree):
        assert [path for path in ROOT.rglob(name) if ".venv" not in path.parts], name
