"""`fpd run` and `fpd demo`: train the teacher or a student, or run all missing stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cache import make_heatmaps
from .evaluate import evaluate_models
from .options import cache_options, callback_option, code_option, run_options, stage
from .terminal import echo

if TYPE_CHECKING:
    import torch

    from ..pipeline.config.recipe import Recipe
    from ..pipeline.workdir import WorkDir


@click.group()
def run() -> None:
    """Train the teacher or a student, or run all missing stages."""


@run.command("teacher")
@run_options
@callback_option
def run_teacher(callbacks: tuple[str, ...], **options: Any) -> None:
    """Train the teacher on labels.

    \b
    fpd run teacher -w work/lsp
    torchrun --nproc-per-node 4 -m fpd run teacher -w work/lsp       on four GPUs
    """
    with stage(options, distributed=True) as (work, recipe, device):
        _train_teacher(work, recipe, device, callbacks)


@run.command("student")
@run_options
@cache_options
@click.option("--name", default="student", show_default=True, help="The student's folder.")
@click.option(
    "--init-from",
    type=click.Path(exists=True, path_type=Path),
    help="Start from these weights: a .safetensors file or a model's folder, such as "
    "work/lsp/labels-only.",
)
@callback_option
def run_student(
    name: str, init_from: Path | None, callbacks: tuple[str, ...], **options: Any
) -> None:
    """Train a student on labels and cached heatmaps (with student.alpha=0, on labels alone).

    \b
    fpd run student -w work/lsp --name labels-only --set student.alpha=0
    torchrun --nproc-per-node 4 -m fpd run student -w work/lsp       on four GPUs
    """
    with stage(options, distributed=True) as (work, recipe, device):
        _train_student(work, recipe, device, name, init_from, callbacks)


@run.command("all")
@run_options
@code_option
@callback_option
def run_all(allow_code: bool, callbacks: tuple[str, ...], **options: Any) -> None:
    """Run what is missing: teacher, heatmaps, students, evaluation.

    All students of the recipe are trained.

    \b
    fpd run all -r lsp -w work/lsp --set data.root=datasets
    """
    with stage(options) as (work, recipe, device):
        run_stages(work, recipe, device, callbacks, allow_code=allow_code)


@click.command()
@run_options
@code_option
@callback_option
def demo(allow_code: bool, callbacks: tuple[str, ...], **options: Any) -> None:
    """Run all four stages on synthetic people.

    Some of their labels are noisy, some are missing.

    \b
    fpd demo -w work/demo
    """
    with stage(options, default_recipe="demo") as (work, recipe, device):
        run_stages(work, recipe, device, callbacks, allow_code=allow_code)


@dataclass
class StageReports:
    """What the stages of `run_stages` returned, and the seconds that each took in this call.

    Attributes:
        recipe: the recipe as they used it.
        photographs: number of photographs without labels that they were given.
    """

    recipe: Recipe
    photographs: int = 0
    heatmaps: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record how long the block takes."""
        start = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - start


def run_stages(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    callbacks: tuple[str, ...] = (),
    *,
    allow_code: bool,
) -> StageReports:
    """Run what is missing: teacher, heatmaps, students, evaluation; each prints its result.

    Photographs without labels are prepared and checked first.
    """
    reports = StageReports(recipe)
    if recipe.data.reader == "photos":
        recipe = reports.recipe = _prepare_photos(work, recipe, device, reports, allow_code)
    if not recipe.store.teachers:
        with reports.timed("teacher"):
            _train_teacher(work, recipe, device, callbacks)
    with reports.timed("heatmaps"):
        reports.heatmaps = make_heatmaps(
            work, recipe, device, overwrite=False, allow_code=allow_code
        )
    for name in recipe.student_names:
        with reports.timed(name):
            _train_student(work, recipe, device, name, None, callbacks)
    with reports.timed("evaluation"):
        reports.evaluation = evaluate_models(work, recipe, device, allow_code=allow_code)
    return reports


def _prepare_photos(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    reports: StageReports,
    allow_code: bool,
) -> Recipe:
    """Find joints and boxes, and check all photographs before the teacher runs on any."""
    from ..pipeline.store import open_storage
    from ..stages import check_data, prepare_photos
    from .summaries.check_data import describe

    with reports.timed("preparation"):
        recipe, reports.photographs = prepare_photos.run(
            work, recipe, device, allow_code=allow_code
        )
    if open_storage(work.store_location(recipe)).exists():
        return recipe
    with reports.timed("check"):
        report = check_data.run(recipe.data)
    echo(describe(report))
    if not report["usable"]:
        raise ValueError("the photographs above cannot be used: replace or remove them")
    return recipe


def _train_teacher(
    work: WorkDir, recipe: Recipe, device: torch.device, callbacks: tuple[str, ...]
) -> None:
    from ..stages import teacher

    _print_trained("teacher", teacher.run(work, recipe, device, callbacks=callbacks))


def _train_student(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    name: str,
    init_from: Path | None,
    callbacks: tuple[str, ...],
) -> None:
    from ..stages import student

    record = student.run(work, recipe, device, name=name, init_from=init_from, callbacks=callbacks)
    _print_trained(name, record)


def _print_trained(name: str, record: dict[str, Any]) -> None:
    from ..pipeline.runtime.launch import launched_rank

    if launched_rank() != 0:
        return  # of the processes that torchrun started, the first one prints
    result = record["result"]
    pck = result["validation_pck"]
    best = f", validation PCK {100 * (pck or 0.0):.1f} (epoch {result['best_epoch']})"
    echo(f"{name}: trained in {result['seconds']:.0f} s{'' if pck is None else best}")
