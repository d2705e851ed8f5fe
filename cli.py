"""The command line: options and messages, no work of its own.

Everything heavy is imported inside the commands, so that `fpd --help` answers at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

    from .pipeline.recipe import Recipe
    from .pipeline.workdir import WorkDir

INTERRUPTED_EXIT = 130  # what shells report of a process that Ctrl-C ended

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
    """Train the teacher on labels."""
    with stage(options) as (work, recipe, device):
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
    """Train a student on labels and cached heatmaps (with student.alpha=0: on labels alone)."""
    with stage(options) as (work, recipe, device):
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
def cache_heatmaps(overwrite: bool, **options: Any) -> None:
    """Precompute the teacher's heatmaps for seeded views of every training person."""
    with stage(options) as (work, recipe, device):
        _heatmaps(work, recipe, device, overwrite)


@main.command()
@run_options
def evaluate(**options: Any) -> None:
    """Score all models of the work directory on the test people."""
    with stage(options, writes=False) as (work, recipe, device):
        _evaluate(work, recipe, device)


@main.command()
@run_options
def demo(**options: Any) -> None:
    """Run all four stages on drawn people with noisy and missing labels."""
    options["recipe"] = options["recipe"] or "demo"
    with stage(options) as (work, recipe, device):
        _all(work, recipe, device)


@contextmanager
def stage(
    options: dict[str, Any], *, writes: bool = True
) -> Iterator[tuple[WorkDir, Recipe, torch.device]]:
    """What a stage needs, from the options; mistakes become one sentence, not a traceback."""
    from .pipeline.device import choose_device, divide_cores
    from .pipeline.training.loop import Interrupted
    from .pipeline.workdir import WorkDir

    try:
        device = choose_device(options["device"])
        work = WorkDir(options["work"])
        overrides = options["overrides"]
        if options["store"]:
            overrides += (f"store.location={json.dumps(options['store'])}",)
        recipe = work.recipe(options["recipe"], overrides)
        if writes:
            work.keep(recipe)
        divide_cores(recipe.loader, device)
        yield work, recipe, device
    except ValueError as error:
        raise click.ClickException(_sentence(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"{error.filename or options['work']}: {error.strerror}; what is complete is kept, and "
            "the same command goes on once that is mended"
        ) from None
    except Interrupted as error:
        click.echo(str(error), err=True)
        raise SystemExit(INTERRUPTED_EXIT) from None


def _sentence(error: ValueError) -> str:
    """The error's own message, without the traceback that PyTorch wraps around a loader's."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rstrip().rpartition("\n")[2].removeprefix("ValueError: ")


def _teacher(work: WorkDir, recipe: Recipe, device: torch.device) -> None:
    from .stages import teacher

    _say_trained("teacher", teacher.run(work, recipe, device))


def _heatmaps(work: WorkDir, recipe: Recipe, device: torch.device, overwrite: bool) -> None:
    from .stages import heatmaps

    store = heatmaps.run(work, recipe, device, overwrite=overwrite)
    measured = store["measured"]
    click.echo(
        f"heatmaps: {store['views']} views of {store['samples']} people, "
        f"{store['bytes'] / 1e6:.1f} MB ({store['bytes_per_view']:.0f} bytes a view; raw float16: "
        f"{store['float16_bytes'] / 1e6:.1f} MB, {store['float16_bytes'] / store['bytes']:.0f} x); "
        f"error at most {100 * measured['max_error']:.2g} % of a peak, "
        f"{measured['mean_displacement_px']:.3f} heatmap pixels in the mean"
    )


def _student(
    work: WorkDir, recipe: Recipe, device: torch.device, name: str, init_from: Path | None
) -> None:
    from .stages import student

    record = student.run(work, recipe, device, name=name, init_from=init_from)
    _say_trained(name, record)


def _evaluate(work: WorkDir, recipe: Recipe, device: torch.device) -> None:
    from .pipeline.report import table
    from .stages import evaluate

    click.echo(table(evaluate.run(work, recipe, device)))
    click.echo(f"written to {work.evaluation}")


def _all(work: WorkDir, recipe: Recipe, device: torch.device) -> None:
    _teacher(work, recipe, device)
    _heatmaps(work, recipe, device, overwrite=False)
    for name in recipe.student_names:
        _student(work, recipe, device, name, init_from=None)
    _evaluate(work, recipe, device)


def _say_trained(name: str, record: dict[str, Any]) -> None:
    result = record["result"]
    pck = result["validation_pck"]
    best = f", validation PCK {100 * pck:.1f} (epoch {result['best_epoch']})" if pck else ""
    click.echo(f"{name}: trained in {result['seconds']:.0f} s{best}")
