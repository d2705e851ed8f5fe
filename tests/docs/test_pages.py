"""README and documentation pages: commands parse, settings exist, links and named files resolve."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from fpd.cli import main
from fpd.pipeline.config.recipe import load_recipe

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GENERATED = {"commands.md", "settings.md"}
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [page for page in PAGES if page.name not in GENERATED]
TEXTS = {page: page.read_text("utf-8") for page in PAGES}
SECTIONS = (
    "data",
    "geometry",
    "augmentation",
    "targets",
    "teacher",
    "store",
    "student",
    "loader",
    "evaluation",
    "cluster",
    "monitor",
)
NOT_SETTINGS = {
    "data.yaml",
    "teacher.spec",
    "teacher.digest",
    "teacher.covered_joints",
    "student.onnx.json",
    "student.onnx.md",
    "student.tflite.json",
}
"""Dotted names in the pages that look like settings: attributes, a manifest entry, a file."""


def by_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


def console_lines(text: str) -> list[str]:
    """Commands of the console blocks, continuation lines joined."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def fpd_commands(text: str) -> list[str]:
    """Command lines of `fpd` in console blocks and in inline code, without torchrun before them."""
    inline = re.findall(r"`(fpd [^`]+)`", text)
    console = [line.rpartition(" -m ")[2] for line in console_lines(text)]
    return [" ".join(line.split()) for line in [*console, *inline] if line.startswith("fpd ")]


COMMANDS = sorted(
    {
        (by_page(page), line)
        for page in WRITTEN
        for line in fpd_commands(TEXTS[page])
        if line != "fpd COMMAND --help"
    }
)


def parse(arguments: list[str]) -> click.Context:
    """The context of the command that the arguments name, with its options parsed."""
    command: click.Command = main
    context: click.Context | None = None
    while isinstance(command, click.Group) and arguments:
        name, *arguments = arguments
        context = click.Context(command, parent=context, info_name=name, **command.context_settings)
        member = command.get_command(context, name)
        assert member is not None, f"no command {name!r}"
        command = member
    # A command without any arguments is only mentioned.
    return command.make_context(
        command.name, arguments, parent=context, resilient_parsing=not arguments
    )


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p}: {line}" for p, line in COMMANDS])
def test_every_command_parses(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)[1:]
    if words == ["--help"]:
        return
    # A folder that a command names need not exist for its options to be right.
    words = [str(tmp_path) if re.fullmatch(r"work/[\w/-]+", word) else word for word in words]
    parsed = parse(words)
    recipe = parsed.params.get("recipe") or "lsp"
    overrides = [text for text in parsed.params.get("overrides", ()) if "timm" not in text]
    assert load_recipe(recipe, ["data.root=datasets", *overrides]).data.root is not None


def leaf_commands(group: click.Group, prefix: str) -> list[str]:
    names: list[str] = []
    for name, command in group.commands.items():
        path = f"{prefix} {name}"
        names += leaf_commands(command, path) if isinstance(command, click.Group) else [path]
    return names


@pytest.mark.parametrize("name", leaf_commands(main, "fpd"))
def test_every_command_is_in_the_reference(name: str) -> None:
    assert f"\n## {name}\n" in TEXTS[ROOT / "docs" / "commands.md"]


@pytest.mark.parametrize("page", WRITTEN, ids=by_page)
def test_every_setting_exists(page: Path) -> None:
    reference = TEXTS[ROOT / "docs" / "settings.md"]
    known = set(re.findall(r"^\| `([\w.]+)`", reference, re.MULTILINE))
    known |= {f"{table}.{key}" for table in ("teacher.model", "student.model") for key in known}
    dotted = rf"(?:`|--set [\"']?)((?:{'|'.join(SECTIONS)})(?:\.[a-z_]+)+)(?=[`= ])"
    tables = {key.rpartition(".")[0] for key in known}
    for key in re.findall(dotted, TEXTS[page]):
        if key.startswith("cluster.resources."):  # named by whoever declares the resource
            continue
        assert key in known | tables | NOT_SETTINGS, key


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text("utf-8")), target


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\s-]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=by_page)
def test_every_make_target_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for targets in re.findall(r"(?:^\$ |`)make ([a-z -]+)", TEXTS[page], re.MULTILINE):
        for target in targets.split():
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_source_file_exists(page: Path) -> None:
    for name in re.findall(
        r"`((?:pipeline|data|stages|commands|tests|benchmarks)/[^`\s]+)`", TEXTS[page]
    ):
        assert (ROOT / name).exists(), name


def test_every_file_of_the_source_tree_exists() -> None:
    tree = TEXTS[ROOT / "docs" / "architecture.md"].split("```")[1]
    for name in re.findall(r"[a-z_]+\.py", tree):
        assert [path for path in ROOT.rglob(name) if ".venv" not in path.parts], name
    for name in re.findall(r"^ *([a-z_]+)/", tree, re.MULTILINE):
        assert [path for path in ROOT.rglob(name) if path.is_dir()], name
