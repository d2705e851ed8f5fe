"""The command line: options and messages, no work of its own.

Everything heavy is imported inside the commands, so that `fpd --help` answers at once.
"""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    import torch

    from .pipeline.cluster import Workers
    from .pipeline.recipe import Recipe
    from .pipeline.workdir import WorkDir

INTERRUPTED_EXIT = 130  # what shells report of a process that Ctrl-C ended
REQUEUE_EXIT = 75  # after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again later"

Command = Callable[..., None]


def run_options(command: Command) -> Command:
    """The options that every stage has."""
    options = [
        click.option(
            "-w",
            "--work",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path("work/demo"),
            show_default=True,
            help="Work directory: all stages' files.",
        ),
        click.option(
            "-r",
            "--recipe",
            metavar="NAME|FILE",
            help="Recipe: shipped, or a TOML file.  [default: the work directory's, else demo]",
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override a setting, such as student.alpha=0.9. May be given several times.",
        ),
        click.option(
            "--store",
            metavar="PATH|URL",
            help="Where the heatmaps lie; s3://bucket/run.zarr, say.  [default: heatmaps.zarr in "
            "the work directory]",
        ),
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fpd")
def main() -> None:
    r"""Fast pose distillation: the teacher runs once, students train on its cached heatmaps.

    \b
    fpd demo                              all four stages on drawn people
    fpd run all -r lsp -w work/lsp --set data.root=datasets
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("fpd").setLevel(logging.INFO)


@main.group()
def run() -> None:
    """Train the teacher, a student, or do whatever is missing."""


@run.command("teacher")
@run_options
def run_teacher(**options: Any) -> None:
    r"""Train the teacher on labels.

    \b
    torchrun --nproc-per-node 4 -m fpd run teacher -w work/lsp       on four GPUs
    """
    with stage(options, together=True) as (work, recipe, device):
        _teacher(work, recipe, device)


@run.command("student")
@run_options
@click.option("--name", default="student", show_default=True, help="The student's folder.")
@click.option(
    "--init-from",
    type=click.Path(exists=True, path_type=Path),
    help="Start from these weights: a .safetensors file, or a model's folder.",
)
def run_student(name: str, init_from: Path | None, **options: Any) -> None:
    r"""Train a student on labels and cached heatmaps (with student.alpha=0: on labels alone).

    \b
    torchrun --nproc-per-node 4 -m fpd run student -w work/lsp       on four GPUs
    """
    with stage(options, together=True) as (work, recipe, device):
        _student(work, recipe, device, name, init_from)


@run.command("all")
@run_options
def run_all(**options: Any) -> None:
    """Do what is missing: teacher, heatmaps, every student of the recipe, evaluation."""
    with stage(options) as (work, recipe, device):
        _all(work, recipe, device)


@main.command("cache-heatmaps")
@run_options
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
@click.option(
    "--workers",
    "count",
    type=click.IntRange(min=0),
    metavar="N",
    help="Have N processes of a Dask cluster of its own make the shards, spread over this "
    "machine's GPUs; 0: one a GPU, or one a core where there is none.  [default: none, this "
    "process makes them]",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Have the workers of a running Dask cluster make them: tcp://host:8786, say. --device "
    "is theirs.",
)
@click.option(
    "--scheduler-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The same, by the file that `dask scheduler --scheduler-file` writes.",
)
def cache_heatmaps(
    overwrite: bool,
    only_views: str | None,
    plan: bool,
    budget: str | None,
    count: int | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    **options: Any,
) -> None:
    r"""Precompute the teacher's heatmaps for seeded views of every training person.

    \b
    fpd cache-heatmaps -w work/lsp --workers 4
    """
    from .pipeline.cluster import choose_workers

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
            _heatmaps(work, recipe, device, overwrite, only_views, workers)


@main.command("inspect-cache")
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
    r"""Print what a store holds: manifest, coverage, sizes, errors; or draw one of its views.

    \b
    fpd inspect-cache -w work/demo --view figures/train/000007 0 -o view.png
    """
    from .stages import inspection

    with stage(options, writes=False) as (work, recipe, device):
        if view is not None:
            drawn = inspection.draw(work, recipe, device, *view, out)
            click.echo(f"written to {out}{_say_compared(drawn)}")
            return
        found = inspection.run(work, recipe)
        click.echo(json.dumps(found, indent=2) if as_json else inspection.describe(found))


@main.command("merge-caches")
@run_options
@click.argument("sources", metavar="SOURCE...", nargs=-1)
def merge_caches(sources: tuple[str, ...], **options: Any) -> None:
    r"""Join stores of one teacher, data set and settings into the work directory's.

    \b
    fpd merge-caches work/a/heatmaps.zarr s3://bucket/b.zarr -w work/joined
    """
    from .pipeline.sizes import format_bytes
    from .stages import merging

    with stage(options, writes=False) as (work, recipe, _):
        joined = merging.run(work, recipe, sources)
        click.echo(
            f"merged: {joined['copied']} shards copied, {joined['present']} of "
            f"{joined['shards']} are there, {format_bytes(joined['bytes'])} in {joined['location']}"
        )
        if joined["present"] < joined["shards"]:
            click.echo(f"`fpd inspect-cache -w {work.root}` says which are missing")


@main.command("verify-cache")
@run_options
@click.option(
    "--cells",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Views of single people to ask the live teacher about.",
)
@click.option("--deep", is_flag=True, help="Read every file and compare it with its receipt.")
@click.option("--repair", is_flag=True, help="Make missing and damaged shards again.")
def verify_cache(cells: int, deep: bool, repair: bool, **options: Any) -> None:
    """Check the cached heatmaps: against their receipts, and against the live teacher."""
    from .stages import verification

    with stage(options, writes=False) as (work, recipe, device):
        found = verification.run(work, recipe, device, cells=cells, deep=deep, repair=repair)
        click.echo(found.table())
        if found.trouble:
            raise click.ClickException(found.trouble)


@main.command()
@run_options
@click.option(
    "--predictions",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Score these joints instead, of any tool: .mat, .npz, .npy or .json, N x K x 2 or "
    "K x 2 x N. Needs --ground-truth and no work directory.",
)
@click.option(
    "--ground-truth",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="MPII's gt_valid.mat, for PCKh, or LSP's joints.mat, for PCK.",
)
@click.option(
    "--tau",
    type=click.FloatRange(min=0, min_open=True, max=10),
    help="Threshold of the means, in units of length.  [default: MPII 0.5, LSP 0.2]",
)
@click.option(
    "--zero-based/--one-based",
    default=None,
    help="The predictions' coordinate of the first pixel.  [default: the ground truth's]",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the predictions' scores here, in full precision.",
)
def evaluate(
    predictions: Path | None,
    ground_truth: Path | None,
    tau: float | None,
    zero_based: bool | None,
    json_path: Path | None,
    **options: Any,
) -> None:
    r"""Score all models of the work directory on the test people; or any tool's predictions.

    \b
    fpd evaluate -w work/lsp
    fpd evaluate --predictions pred.mat --ground-truth gt_valid.mat --json scores.json
    """
    if predictions is None and ground_truth is None:
        if zero_based is not None or json_path is not None:
            raise click.ClickException("--json and --zero-based/--one-based go with --predictions")
        with stage(options, writes=False) as (work, recipe, device):
            _evaluate(work, recipe, device, tau)
    elif predictions is None or ground_truth is None:
        raise click.ClickException(
            "--predictions and --ground-truth go together: give both or none"
        )
    else:
        _refuse_given(options)
        _score(predictions, ground_truth, tau, zero_based, json_path)


@main.command()
@run_options
def demo(**options: Any) -> None:
    """Run all four stages on drawn people with noisy and missing labels."""
    options["recipe"] = options["recipe"] or "demo"
    with stage(options) as (work, recipe, device):
        _all(work, recipe, device)


@contextmanager
def stage(
    options: dict[str, Any], *, writes: bool = True, together: bool = False
) -> Iterator[tuple[WorkDir, Recipe, torch.device]]:
    """What a stage needs, from the options; mistakes become one sentence, not a traceback.

    Args:
        writes: it may be the first in its work directory, and then fixes the recipe.
        together: processes that torchrun started can share it; the first one speaks for all.
    """
    from .pipeline.device import choose_device, divide_cores, is_launched, launched_rank
    from .pipeline.stopping import Interrupted
    from .pipeline.workdir import WorkDir

    if is_launched() and not together:
        raise click.ClickException(
            "torchrun shares `fpd run teacher` and `fpd run student` among processes; run this "
            "command without it"
        )
    first = launched_rank() == 0
    if not first:
        logging.getLogger("fpd").setLevel(logging.ERROR)
    try:
        device = choose_device(options["device"])
        work = WorkDir(options["work"])
        overrides = options["overrides"]
        if options["store"]:
            overrides += (f"store.location={json.dumps(options['store'])}",)
        recipe = work.recipe(options["recipe"], overrides)
        if writes and first:
            work.keep(recipe)
        divide_cores(recipe.loader, device)
        yield work, recipe, device
    except ValueError as error:
        speaker = "" if first else f"process {launched_rank()}: "
        raise click.ClickException(speaker + _sentence(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"{error.filename or options['work']}: {error.strerror}; what is complete is kept, and "
            "the same command goes on once that is mended"
        ) from None
    except Interrupted as error:
        if first:
            click.echo(str(error), err=True)
        asked_to_end = error.signal == signal.SIGTERM
        raise SystemExit(REQUEUE_EXIT if asked_to_end else INTERRUPTED_EXIT) from None


def _sentence(error: ValueError) -> str:
    """The error's own message, without the traceback that PyTorch wraps around a loader's."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rstrip().rpartition("\n")[2].removeprefix("ValueError: ")


def _teacher(work: WorkDir, recipe: Recipe, device: torch.device) -> None:
    from .stages import teacher

    _say_trained("teacher", teacher.run(work, recipe, device))


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
    from .pipeline.sizes import parse_bytes
    from .stages import planning

    size = None if budget is None else parse_bytes(budget)
    plan = planning.run(work, recipe, device, overwrite=overwrite)
    chosen = None if size is None else plan.choose(size)
    if only_print:
        click.echo(planning.describe(plan, chosen))
    if size is None or chosen is None:
        return recipe
    click.echo(planning.explain_choice(plan, size, chosen))
    if only_print:
        return recipe
    recipe = planning.adopt(work, recipe, plan, chosen)
    click.echo(f"{work.kept_recipe} now has store.views = {chosen}, for the students to come")
    return recipe


def _heatmaps(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    overwrite: bool,
    only_views: str | None = None,
    workers: Workers | None = None,
) -> None:
    from .pipeline.ranges import parse_ranges
    from .pipeline.sizes import format_bytes
    from .stages import heatmaps

    chosen = None if only_views is None else parse_ranges(only_views, below=recipe.store.views)
    store = heatmaps.run(
        work, recipe, device, overwrite=overwrite, only_views=chosen, workers=workers
    )
    measured = store["measured"]
    click.echo(
        f"heatmaps: {store['views']} views of {store['samples']} people, "
        f"{format_bytes(store['bytes'])} ({store['bytes_per_view']:.0f} bytes a view; raw float16: "
        f"{format_bytes(store['float16_bytes'])}, "
        f"{store['float16_bytes'] / store['bytes']:.0f} x); "
        f"error at most {100 * measured['max_error']:.2g} % of a peak, "
        f"{measured['mean_displacement_px']:.3f} heatmap pixels in the mean"
    )


def _student(
    work: WorkDir, recipe: Recipe, device: torch.device, name: str, init_from: Path | None
) -> None:
    from .stages import student

    record = student.run(work, recipe, device, name=name, init_from=init_from)
    _say_trained(name, record)


def _evaluate(
    work: WorkDir, recipe: Recipe, device: torch.device, tau: float | None = None
) -> None:
    from .pipeline.report import table
    from .stages import evaluate

    click.echo(table(evaluate.run(work, recipe, device, tau)))
    click.echo(f"written to {work.evaluation}")


def _refuse_given(options: dict[str, Any]) -> None:
    """Refuse options of the work directory that the user gave: they would change nothing."""
    context = click.get_current_context()
    given = ParameterSource.COMMANDLINE
    names = [p for p in context.command.params if p.name in options]
    wrong = [p.opts[-1] for p in names if context.get_parameter_source(str(p.name)) is given]
    if wrong:
        raise click.ClickException(
            f"--predictions are scored without {', '.join(wrong)}: leave it out"
        )


def _score(
    predictions: Path,
    ground_truth: Path,
    tau: float | None,
    zero_based: bool | None,
    json_path: Path | None,
) -> None:
    from .stages import scoring

    try:
        report = scoring.run(predictions, ground_truth, tau, zero_based, json_path)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{json_path}: {error.strerror}") from None
    click.echo(scoring.describe(report))
    if json_path is not None:
        click.echo(f"written to {json_path}")


def _all(work: WorkDir, recipe: Recipe, device: torch.device) -> None:
    _teacher(work, recipe, device)
    _heatmaps(work, recipe, device, overwrite=False)
    for name in recipe.student_names:
        _student(work, recipe, device, name, init_from=None)
    _evaluate(work, recipe, device)


def _say_compared(drawn: dict[str, Any]) -> str:
    if drawn["error"] is None:
        return f" ({drawn['not_compared']})"
    return (
        f": at most {100 * drawn['error']:.3g} % of a peak off the live teacher "
        f"(bound {100 * drawn['bound']:.3g} %)"
    )


def _say_trained(name: str, record: dict[str, Any]) -> None:
    from .pipeline.device import launched_rank

    if launched_rank():
        return  # the first process speaks for all
    result = record["result"]
    pck = result["validation_pck"]
    best = f", validation PCK {100 * pck:.1f} (epoch {result['best_epoch']})" if pck else ""
    click.echo(f"{name}: trained in {result['seconds']:.0f} s{best}")
