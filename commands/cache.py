"""The commands of the heatmap store: cache-heatmaps, inspect-, merge- and verify-cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import cluster_options, code_option, json_option, run_options, stage
from .terminal import echo

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
    help="External teacher, used instead of the one trained in the work directory: an ONNX, "
    "TFLite or .pt2 file, a ViTPose folder, hf:ORG/NAME, hourglass weights, "
    "package.module:factory, or the model folder of another run (docs/teachers.md). Repeatable: "
    "the outputs are averaged.",
)
@click.option(
    "--portable",
    is_flag=True,
    help="Also store the views, as JPEG, with their labels, and validation and test samples: "
    "students then need nothing but the store (docs/portable.md).",
)
@click.option("--overwrite", is_flag=True, help="Remove an existing store first.")
@click.option(
    "--only-views",
    metavar="NUMBERS",
    help="Make these view numbers alone, such as 4-7 or 0-3,6; other runs can make the rest.",
)
@click.option(
    "--plan", is_flag=True, help="Measure a few views and print the size and time of the store."
)
@click.option(
    "--budget",
    metavar="SIZE",
    help="Cache as many views as fit into SIZE, such as 20GB or 1.5TiB; students then use as many.",
)
@code_option
@cluster_options
def cache_heatmaps(
    teachers: tuple[str, ...],
    portable: bool,
    overwrite: bool,
    only_views: str | None,
    plan: bool,
    budget: str | None,
    allow_code: bool,
    count: int | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    **options: Any,
) -> None:
    """Precompute the teacher's heatmaps of training samples.

    Each sample has several seeded views. The same command resumes, and adds views.

    \b
    fpd cache-heatmaps -w work/lsp --workers 4
    fpd cache-heatmaps -w work/lsp --teacher models/vitpose-base-simple
    """
    from ..pipeline.runtime.dask_cluster import choose_workers

    if teachers:
        allow_code = True  # these replace the recipe's teachers, and are the user's own choice
        options["overrides"] += (f"store.teachers={json.dumps(teachers)}",)
    if portable:
        options["overrides"] += ("store.portable=true",)
    workers_device = options["device"]
    if scheduler is not None or scheduler_file is not None:
        options["device"] = "cpu"  # this machine may lack the device that the workers have
    with stage(options, writes=not plan) as (work, recipe, device):
        workers = choose_workers(count, scheduler, scheduler_file, workers_device)
        if plan and workers:
            raise ValueError(
                "--plan measures this process: use it without --workers or --scheduler"
            )
        if plan or budget is not None:
            recipe = _plan(
                work, recipe, device, overwrite, budget, only_print=plan, allow_code=allow_code
            )
        if not plan:
            make_heatmaps(
                work, recipe, device, overwrite, only_views, workers, allow_code=allow_code
            )


@click.command("inspect-cache")
@run_options
@json_option
@click.option(
    "--view",
    type=(str, int),
    metavar="SAMPLE VIEW",
    help="Draw one view of one sample instead, such as figures/train/000007 0; SAMPLE is an id or "
    "an index.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("view.png"),
    show_default=True,
    help="File of the drawing.",
)
@code_option
def inspect_cache(
    json_path: Path | None,
    view: tuple[str, int] | None,
    out: Path,
    allow_code: bool,
    **options: Any,
) -> None:
    """Print what a store contains, or draw one of its views.

    \b
    fpd inspect-cache -w work/demo
    fpd inspect-cache -w work/demo --view figures/train/000007 0 -o view.png
    """
    with stage(options, writes=False, needs_recipe=view is not None) as (work, recipe, device):
        from ..stages.inspect import draw, run
        from .summaries.inspect import describe, describe_drawing

        if view is not None:
            sample, view_number = view
            drawing = draw(work, recipe, device, sample, view_number, out, allow_code=allow_code)
            echo(describe_drawing(drawing, out))
            return
        echo(describe(run(work, recipe, json_path)))
        if json_path is not None:
            echo(f"written to {json_path}")


@click.command("merge-caches")
@run_options
@click.argument("sources", metavar="SOURCE...", nargs=-1)
def merge_caches(sources: tuple[str, ...], **options: Any) -> None:
    """Merge stores that were made apart.

    They must be of one teacher, data set and settings; the work directory's store then has the
    shards of all of them.

    \b
    fpd merge-caches work/a/heatmaps.zarr s3://bucket/b.zarr -w work/joined
    """
    with stage(options, writes=False, needs_recipe=False) as (work, recipe, _):
        from ..stages.merge import run
        from .summaries.merge import describe

        echo(describe(run(work, recipe, sources), work.root))


@click.command("verify-cache")
@run_options
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Number of stored views, each of one sample, to compare with the live teacher's output.",
)
@click.option("--deep", is_flag=True, help="Read every file and compare it with its receipt.")
@click.option("--repair", is_flag=True, help="Make missing and damaged shards again.")
@code_option
def verify_cache(samples: int, deep: bool, repair: bool, allow_code: bool, **options: Any) -> None:
    """Verify a store and, with --repair, repair it.

    Its files are compared with their receipts, and some views with the live teacher's output.

    \b
    fpd verify-cache -w work/lsp --samples 256
    fpd verify-cache -w work/lsp --deep --repair
    """
    with stage(options, writes=False) as (work, recipe, device):
        from ..stages.verify import run
        from .summaries.verify import describe

        verification = run(
            work,
            recipe,
            device,
            sample_count=samples,
            deep=deep,
            repair=repair,
            allow_code=allow_code,
        )
        echo(describe(verification))
        if verification.problem is not None:
            raise click.ClickException(verification.problem)


def _plan(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    overwrite: bool,
    budget: str | None,
    *,
    only_print: bool,
    allow_code: bool,
) -> Recipe:
    """Measure a pilot; print the plan, or the number of views that a budget allows.

    Returns:
        The recipe, with that number of views unless `only_print`.
    """
    from ..pipeline.runtime.text import parse_bytes
    from ..stages.plan import adopt, run
    from .summaries.plan import describe, explain_choice

    budget_bytes = None if budget is None else parse_bytes(budget)
    plan = run(work, recipe, device, overwrite=overwrite, allow_code=allow_code)
    views = None if budget_bytes is None else plan.choose(budget_bytes)
    if only_print:
        echo(describe(plan, views))
    if budget_bytes is None or views is None:
        return recipe
    echo(explain_choice(plan, budget_bytes, views))
    if only_print:
        return recipe
    recipe = adopt(work, recipe, plan, views)
    echo(f"{work.kept_recipe} now has store.views = {views}; students will use it")
    return recipe


def make_heatmaps(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    overwrite: bool,
    only_views: str | None = None,
    workers: Workers | None = None,
    *,
    allow_code: bool,
) -> dict[str, Any]:
    """Run stage 2 and print the store's size and error.

    Args:
        only_views: as the option `--only-views`.

    Returns:
        What the stage returns.
    """
    from ..pipeline.runtime.text import parse_ranges
    from ..stages import heatmaps
    from .summaries.heatmaps import describe

    views = None if only_views is None else parse_ranges(only_views, below=recipe.store.views)
    report = heatmaps.run(
        work,
        recipe,
        device,
        overwrite=overwrite,
        only_views=views,
        workers=workers,
        allow_code=allow_code,
    )
    echo(describe(report))
    return report
