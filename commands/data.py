"""`fpd check-data`: what a data set holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import recipe_options, stage


@click.command("check-data")
@recipe_options
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
def check_data(workers: int, json_path: Path | None, **options: Any) -> None:
    """Decode every image, look at every label; list what cannot be used. Exit status 1 if any.

    \b
    fpd check-data -w work/lsp
    fpd check-data -r lsp --set data.root=datasets --json check.json
    """
    with stage(options | {"store": None, "device": "cpu"}, writes=False) as (_, settings, _):
        from ..stages.check_data import run
        from .summaries.check_data import describe

        report = run(settings.data, workers, json_path)
        click.echo(describe(report))
        if json_path is not None:
            click.echo(f"written to {json_path}")
    if not report["usable"]:
        raise SystemExit(1)
