"""`fpd run …` and `fpd demo`: training, and doing whatever is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cache import make_heatmaps
from .evaluate import evaluate_models
from .options import run_options, stage

if TYPE_CHECKING:
    import torch

    from ..pipeline.config.recipe import Recipe
    from ..pipeline.workdir import WorkDir


@click.group()
def run() -> None:
    """Train the teacher, a student, or do whatever is missing."""


@run.command("teacher")
@run_options
def run_teacher(**options: Any) -> None:
    """Train the teacher on labels.

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
    """Train a student on labels and cached heatmaps (with student.alpha=0: on labels alone).

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


@click.command()
@run_options
def demo(**options: Any) -> None:
    """Run all four stages on drawn people with noisy and missing labels."""
    options["recipe"] = options["recipe"] or "demo"
    with stage(options) as (work, recipe, device):
        _all(work, recipe, device)


def _teacher(work: WorkDir, recipe: Recipe, device: torch.device) -> None:
    from ..stages import teacher

    _say_trained("teacher", teacher.run(work, recipe, device))


def _student(
    work: WorkDir, recipe: Recipe, device: torch.device, name: str, init_from: Path | None
) -> None:
    from ..stages import student

    record = student.run(work, recipe, device, name=name, init_from=init_from)
    _say_trained(name, record)


def _all(work: WorkDir, recipe: Recipe, device: torch.device) -> None:
    if not recipe.store.teachers:
        _teacher(work, recipe, device)
    make_heatmaps(work, recipe, device, overwrite=False)
    for name in recipe.student_names:
        _student(work, recipe, device, name, init_from=None)
    evaluate_models(work, recipe, device)


def _say_trained(name: str, record: dict[str, Any]) -> None:
    from ..pipeline.runtime.device import launched_rank

    if launched_rank():
        return  # the first process speaks for all
    result = record["result"]
    pck = result["validation_pck"]
    best = f", validation PCK {100 * pck:.1f} (epoch {result['best_epoch']})" if pck else ""
    click.echo(f"{name}: trained in {result['seconds']:.0f} s{best}")
