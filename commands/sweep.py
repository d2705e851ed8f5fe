"""`fpd sweep`: a grid of students, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import cache_options, callback_option, cluster_options, run_options, stage
from .terminal import echo

if TYPE_CHECKING:
    from ..pipeline.config.recipe import Recipe
    from ..pipeline.config.sections import Sweep
    from ..pipeline.workdir import WorkDir


@click.command()
@run_options
@cache_options
@click.argument("name", required=False)
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=VALUE,VALUE",
    help="Vary a setting, such as student.alpha=0,0.5,1. Repeatable: every combination is trained.",
)
@click.option(
    "--seeds", type=click.IntRange(1, 1000), help="Seeds to train each student with.  [default: 3]"
)
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    help="Cross-validate on the training samples in this many parts, such as 5, instead of scoring "
    "on the test samples.",
)
@cluster_options
@callback_option
def sweep(
    name: str | None,
    grid: tuple[str, ...],
    seeds: int | None,
    folds: int | None,
    count: int | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    callbacks: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a grid of students on one store and compare them.

    NAME is one of the recipe's sweeps or, with --grid, a new name.

    \b
    fpd sweep alpha -w work/lsp --grid student.alpha=0,0.25,0.5,1 --seeds 3
    fpd sweep choose-alpha -w work/lsp --grid student.alpha=0.25,0.5,0.75 --folds 5
    """
    from ..pipeline.runtime.dask_cluster import choose_workers

    workers_device = options["device"]
    if scheduler is not None or scheduler_file is not None:
        options["device"] = "cpu"  # this machine may lack the device that the workers have
    with stage(options) as (work, recipe, device):
        from ..pipeline.training.sweep.summary import best, table
        from ..stages.sweep import run

        workers = choose_workers(count, scheduler, scheduler_file, workers_device)
        name, settings = _choose(work, recipe, name, grid, seeds, folds)
        report = run(work, recipe, device, name, settings, workers, callbacks=callbacks)
        echo(table(report))
        if settings.folds is not None:
            echo(f"best by cross-validation: {best(report)}")
        echo(f"written to {work.sweep(name)}")
        failed = sum("error" in row for row in report["runs"])
        if failed:
            raise ValueError(
                f"{failed} of {len(report['runs'])} students failed, for the reasons above; the "
                "same command tries them again"
            )


def _choose(
    work: WorkDir,
    recipe: Recipe,
    name: str | None,
    grid: tuple[str, ...],
    seeds: int | None,
    folds: int | None,
) -> tuple[str, Sweep]:
    """Name and settings of the sweep to run: the recipe's, with the options' changes.

    Raises:
        ValueError: no sweep of the recipe is named, and no grid is given.
    """
    from ..pipeline.config.recipe import parse_sweep

    if name is None and not grid and len(recipe.sweeps) == 1:
        name = next(iter(recipe.sweeps))
    if name is None or (name not in recipe.sweeps and not grid):
        names = ", ".join(recipe.sweeps) or "none"
        raise ValueError(
            f"expected the name of one of the recipe's sweeps ({names}), or a new name and "
            f"--grid; found {name or 'no name'}: for example, `fpd sweep {name or 'alpha'} "
            f"-w {work.root} --grid student.alpha=0.5,1`"
        )
    return name, parse_sweep(recipe.sweeps.get(name), grid, seeds, folds)
