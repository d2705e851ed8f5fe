"""`fpd run` and `fpd demo`: train the teacher or a student, or run all missing stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cache import make_heatmaps
from .evaluate import evaluate_models
from .options import cache_options, code_option, run_options, stage
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
def run_teacher(**options: Any) -> None:
    """Train the teacher on labels.

    \b
    fpd run teacher -w work/lsp
    torchrun --nproc-per-node 4 -m fpd run teacher -w work/lsp       on four GPUs
    """
    with stage(options, distributed=True) as (work, recipe, device):
        _train_teacher(work, recipe, device)


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
def run_student(name: str, init_from: Path | None, **options: Any) -> None:
    """Train a student on labels and cached heatmaps (with student.alpha=0, on labels alone).

    \b
    fpd run student -w work/lsp --name labels-only --set student.alpha=0
    torchrun --nproc-per-node 4 -m fpd run student -w work/lsp       on four GPUs
    """
    with stage(options, distributed=True) as (work, recipe, device):
        _train_student(work, recipe, device, name, init_from)


@run.command("all")
@run_options
@code_option
def run_all(allow_code: bool, **options: Any) -> None:
    """Run what is missing: teacher, heatmaps, students, evaluation.

    All students of the recipe are trained.

    \b
    fpd run all -r lsp -w work/lsp --set data.root=datasets
    """
    with stage(options) as (work, recipe, device):
        _run_all(work, recipe, device, allow_code=allow_code)


@click.command()
@run_options
@code_option
def demo(allow_code: bool, **options: Any) -> None:
    """Run all four stages on synthetic people.

    Some of their labels are noisy, some are missing.

    \b
    fpd demo -w work/demo
    """
    with stage(options, default_recipe="demo") as (work, recipe, device):
        _run_all(work, recipe, device, allow_code=allow_code)


def _run_all(work: WorkDir, recipe: Recipe, device: torch.device, *, allow_code: bool) -> None:
    if not recipe.store.teachers:
        _train_teacher(work, recipe, device)
    make_heatmaps(work, recipe, device, overwrite=False, allow_code=allow_code)
    for name in recipe.student_names:
        _train_student(work, recipe, device, name, init_from=None)
    evaluate_models(work, recipe, device, allow_code=allow_code)


def _train_teacher(work: WorkDir, recipe: Recipe, device: torch.device) -> None:
    from ..stages import teacher

    _print_trained("teacher", teacher.run(work, recipe, device))


def _train_student(
    work: WorkDir, recipe: Recipe, device: torch.device, name: str, init_from: Path | None
) -> None:
    from ..stages import student

    record = student.run(work, recipe, device, name=name, init_from=init_from)
    _print_trained(name, record)


def _print_trained(name: str, record: dict[str, Any]) -> None:
    from ..pipeline.runtime.device import launched_rank

    if launched_rank() != 0:
        return  # of the processes that torchrun started, the first one prints
    result = record["result"]
    pck = result["validation_pck"]
    best = f", validation PCK {100 * pck:.1f} (epoch {result['best_epoch']})" if pck else ""
    echo(f"{name}: trained in {result['seconds']:.0f} s{best}")
