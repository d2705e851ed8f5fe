"""`fpd check-data`: what a data set holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import click

from .options import stage


@click.command("check-data")
@click.option(
    "-w",
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("work/demo"),
    show_default=True,
    help="Work directory whose recipe is meant, where there is one.",
)
@click.option(
    "-r",
    "--recipe",
    metavar="NAME|FILE",
    help="Recipe: shipped, or a TOML file.  [default: the work directory's, else demo]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, such as data.root=datasets. May be given several times.",
)
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    default=0,
    show_default=True,
    help="Threads that decode; 0: one a core.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what was found here.",
)
def check_data(
    work: Path, recipe: str | None, overrides: tuple[str, ...], workers: int, json_path: Path | None
) -> None:
    """Decode every image, look at every label; list what cannot be used. Exit status 1 if any.

    \b
    fpd check-data -w work/lsp
    fpd check-data -r lsp --set data.root=datasets --json check.json
    """
    options = {
        "work": work,
        "recipe": recipe,
        "overrides": overrides,
        "store": None,
        "device": "cpu",
    }
    with stage(options, writes=False) as (_, settings, _):
        from ..stages import checking

        report = checking.run(settings.data, workers, json_path)
        click.echo(checking.describe(report))
        if json_path is not None:
            click.echo(f"written to {json_path}")
    if not report["usable"]:
        raise SystemExit(1)
