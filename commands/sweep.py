"""`fpd sweep`: a grid of students, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import cluster_options, run_options, stage

if TYPE_CHECKING:
    from ..pipeline.config.recipe import Recipe
    from ..pipeline.config.sections import Sweep


@click.command()
@run_options
@click.argument("name", required=False)
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=VALUE,VALUE",
    help="Vary a setting: student.alpha=0,0.5,1, say. Given several times: every combination.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), help="Runs of each.  [default: 3]")
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    help="Choose by cross-validation on the training people, in so many parts, instead of scoring "
    "on the test people.",
)
@cluster_options
def sweep(
    name: str | None,
    grid: tuple[str, ...],
    seeds: int | None,
    folds: int | None,
    count: int | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    **options: Any,
) -> None:
    """Train a grid of students on one store, several seeds each, and compare them.

    NAME is one of the recipe's sweeps, or, with --grid, whatever you call it.

    \b
    fpd sweep alpha -w work/lsp --grid student.alpha=0,0.25,0.5,1 --seeds 3
    fpd sweep choose-alpha -w work/lsp --grid student.alpha=0.25,0.5,0.75 --folds 5
    """
    from ..pipeline.runtime.dask_cluster import choose_workers
    from ..pipeline.runtime.text import pluralize
    from ..pipeline.training.sweep.summary import best, table
    from ..stages.sweep import run

    wanted = options["device"]
    if scheduler is not None or scheduler_file is not None:
        options["device"] = "cpu"  # its workers may have a GPU where there is none here
    with stage(options) as (work, recipe, device):
        workers = choose_workers(count, scheduler, scheduler_file, wanted)
        name, settings = _choose(recipe, name, grid, seeds, folds)
        found = run(work, recipe, device, name, settings, workers)
        click.echo(table(found))
        if settings.folds is not None:
            click.echo(f"best by cross-validation: {best(found)}")
        click.echo(f"written to {work.sweep(name)}")
        failed = sum("error" in run for run in found["runs"])
        if failed:
            raise ValueError(
                f"{failed} of {pluralize(len(found['runs']), 'student')} failed, as said above; the "
                "same command tries again"
            )


def _choose(
    recipe: Recipe, name: str | None, grid: tuple[str, ...], seeds: int | None, folds: int | None
) -> tuple[str, Sweep]:
    """The sweep that a command means: one of the recipe's, changed as the options say."""
    from ..pipeline.config.recipe import parse_sweep

    if name is None and not grid and len(recipe.sweeps) == 1:
        name = next(iter(recipe.sweeps))
    if name is None or (name not in recipe.sweeps and not grid):
        there = ", ".join(recipe.sweeps) or "none"
        raise ValueError(
            f"expected the name of one of the recipe's sweeps ({there}), or a name of your own and "
            f"--grid, found {name or 'no name'}"
        )
    return name, parse_sweep(recipe.sweeps.get(name), grid, seeds, folds)
