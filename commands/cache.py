"""The store's commands: made, planned, looked at, merged, verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import cluster_options, run_options, stage

if TYPE_CHECKING:
    import torch

    from ..pipeline.config.recipe import Recipe
    from ..pipeline.runtime.dask_cluster import Workers
    from ..pipeline.workdir import WorkDir


@click.command("cache-heatmaps")
@run_options
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="SOURCE",
    help="Whom to ask instead of the work directory's own: hourglass weights, a ViTPose's folder, "
    "a .pt2 program, package.module:factory, another run's folder (docs/teachers.md). Given "
    "several times: their mean.",
)
@click.option("--overwrite", is_flag=True, help="Remove the store that is there first.")
@click.option(
    "--only-views",
    metavar="NUMBERS",
    help="Leave other view numbers to somebody else: 4-7, say, or 0-3,6.",
)
@click.option("--plan", is_flag=True, help="Measure a few views and print what it all will take.")
@click.option(
    "--budget",
    metavar="SIZE",
    help="Cache as many views as fit into 20GB, say, or 1.5TiB; students then take as many.",
)
@cluster_options
def cache_heatmaps(
    teachers: tuple[str, ...],
    overwrite: bool,
    only_views: str | None,
    plan: bool,
    budget: str | None,
    count: int | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    **options: Any,
) -> None:
    """Precompute the teacher's heatmaps for seeded views of every training person.

    \b
    fpd cache-heatmaps -w work/lsp --workers 4
    fpd cache-heatmaps -w work/lsp --teacher models/vitpose-base-simple
    """
    from ..pipeline.runtime.dask_cluster import choose_workers

    if teachers:  # a setting of the recipe, too
        options["overrides"] += (f"store.teachers={json.dumps(teachers)}",)
    wanted = options["device"]
    if scheduler is not None or scheduler_file is not None:
        options["device"] = "cpu"  # its workers may have a GPU where there is none here
    with stage(options, writes=not plan) as (work, recipe, device):
        workers = choose_workers(count, scheduler, scheduler_file, wanted)
        if plan and workers:
            raise ValueError("--plan measures this process: give it without a cluster's options")
        if plan or budget is not None:
            recipe = _plan(work, recipe, device, overwrite, budget, only_print=plan)
        if not plan:
            make_heatmaps(work, recipe, device, overwrite, only_views, workers)


@click.command("inspect-cache")
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@click.option(
    "--view",
    type=(str, int),
    metavar="SAMPLE VIEW",
    help="Draw one view instead: of a sample's id, or index.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("view.png"),
    show_default=True,
    help="The picture's file.",
)
def inspect_cache(as_json: bool, view: tuple[str, int] | None, out: Path, **options: Any) -> None:
    """Print what a store holds: manifest, coverage, sizes, errors; or draw one of its views.

    \b
    fpd inspect-cache -w work/demo --view figures/train/000007 0 -o view.png
    """
    from ..stages.inspect import draw, run
    from .summaries.inspect import describe

    with stage(options, writes=False) as (work, recipe, device):
        if view is not None:
            drawn = draw(work, recipe, device, *view, out)
            click.echo(f"written to {out}{_say_compared(drawn)}")
            return
        found = run(work, recipe)
        click.echo(json.dumps(found, indent=2) if as_json else describe(found))


@click.command("merge-caches")
@run_options
@click.argument("teachers", metavar="SOURCE...", nargs=-1)
def merge_caches(sources: tuple[str, ...], **options: Any) -> None:
    """Join stores of one teacher, data set and settings into the work directory's.

    \b
    fpd merge-caches work/a/heatmaps.zarr s3://bucket/b.zarr -w work/joined
    """
    from ..pipeline.runtime.text import format_bytes, pluralize
    from ..stages.merge import run

    with stage(options, writes=False) as (work, recipe, _):
        joined = run(work, recipe, sources)
        click.echo(
            f"merged: {pluralize(joined['copied'], 'shard')} copied, {joined['present']} of "
            f"{joined['shards']} are there, {format_bytes(joined['bytes'])} in {joined['location']}"
        )
        if joined["present"] < joined["shards"]:
            click.echo(f"`fpd inspect-cache -w {work.root}` says which are missing")


@click.command("verify-cache")
@run_options
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Views of single people to ask the live teacher about.",
)
@click.option("--deep", is_flag=True, help="Read every file and compare it with its receipt.")
@click.option("--repair", is_flag=True, help="Make missing and damaged shards again.")
def verify_cache(cells: int, deep: bool, repair: bool, **options: Any) -> None:
    """Check the cached heatmaps: against their receipts, and against the live teacher."""
    from ..stages.verify import run

    with stage(options, writes=False) as (work, recipe, device):
        found = run(work, recipe, device, cells=cells, deep=deep, repair=repair)
        click.echo(found.table())
        if found.trouble:
            raise click.ClickException(found.trouble)


def _plan(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    overwrite: bool,
    budget: str | None,
    *,
    only_print: bool,
) -> Recipe:
    """Print a plan, or what a budget chose; the recipe with that choice."""
    from ..pipeline.runtime.text import parse_bytes
    from ..stages.plan import adopt, run
    from .summaries.plan import describe, explain_choice

    size = None if budget is None else parse_bytes(budget)
    plan = run(work, recipe, device, overwrite=overwrite)
    chosen = None if size is None else plan.choose(size)
    if only_print:
        click.echo(describe(plan, chosen))
    if size is None or chosen is None:
        return recipe
    click.echo(explain_choice(plan, size, chosen))
    if only_print:
        return recipe
    recipe = adopt(work, recipe, plan, chosen)
    click.echo(f"{work.kept_recipe} now has store.views = {chosen}, for the students to come")
    return recipe


def make_heatmaps(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    overwrite: bool,
    only_views: str | None = None,
    workers: Workers | None = None,
) -> None:
    """Fill the store and print what it took."""
    from ..pipeline.runtime.text import format_bytes, parse_ranges, pluralize
    from ..stages import heatmaps

    chosen = None if only_views is None else parse_ranges(only_views, below=recipe.store.views)
    store = heatmaps.run(
        work, recipe, device, overwrite=overwrite, only_views=chosen, workers=workers
    )
    measured = store["encoding_error"]
    click.echo(
        f"heatmaps: {pluralize(store['views'], 'view')} of "
        f"{pluralize(store['samples'], 'person', 'people')}, "
        f"{format_bytes(store['bytes'])} ({store['bytes_per_view']:.0f} bytes a view; raw float16: "
        f"{format_bytes(store['float16_bytes'])}, "
        f"{store['float16_bytes'] / store['bytes']:.0f} x); "
        f"error at most {100 * measured['max_error']:.2g} % of a peak, "
        f"{measured['mean_displacement_px']:.3f} heatmap pixels in the mean"
    )


def _say_compared(drawn: dict[str, Any]) -> str:
    if drawn["error"] is None:
        return f" ({drawn['not_compared']})"
    return (
        f": at most {100 * drawn['error']:.3g} % of a peak off the live teacher "
        f"(bound {100 * drawn['bound']:.3g} %)"
    )
