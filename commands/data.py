"""`fpd check-data`: what a data set contains, and which of it cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import json_option, recipe_options, stage
from .terminal import echo


@click.command("check-data")
@recipe_options
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    default=0,
    show_default=True,
    help="Decoding threads; 0: one a CPU core.",
)
@json_option
def check_data(workers: int, json_path: Path | None, **options: Any) -> None:
    """Decode all images, check all labels, list all problems.

    The exit status is 1 if there are any.

    \b
    fpd check-data -w work/lsp
    fpd check-data -r lsp --set data.root=datasets --json check.json
    """
    with stage(options | {"store": None, "device": "cpu"}, writes=False) as (_, recipe, _):
        from ..stages.check_data import run
        from .summaries.check_data import describe

        report = run(recipe.data, workers, json_path)
        echo(describe(report))
        if json_path is not None:
            echo(f"written to {json_path}")
    if not report["usable"]:
        raise SystemExit(1)
