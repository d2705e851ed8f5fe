"""`fpd evaluate`: a work directory's models, or any tool's predictions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .options import passes_options, passes_overrides, run_options, stage

if TYPE_CHECKING:
    import torch

    from ..data.readers.coco import Coco
    from ..pipeline.config.recipe import Recipe
    from ..pipeline.workdir import WorkDir


def _refuse_nan(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """No range refuses it: it is neither below nor above."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("expected a number, found nan")
    return value


@click.command()
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
    help="MPII's gt_valid.mat, for PCKh, LSP's joints.mat, for PCK, or an annotation file of "
    "COCO's format, for OKS: --predictions are then in COCO's results format.",
)
@click.option(
    "--sigmas",
    metavar="NUMBERS",
    help="OKS's tolerance of each joint, 0.05,0.03,... : of a COCO-format file with joints of its "
    "own.",
)
@click.option(
    "--category",
    metavar="NAME",
    help="Of a COCO-format file with several kinds of joints: whom to score.",
)
@click.option(
    "--tau",
    type=click.FloatRange(min=0, min_open=True, max=10),
    callback=_refuse_nan,
    help="Threshold of the means, in units of length.  [default: MPII 0.5, LSP 0.2]",
)
@passes_options
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
    sigmas: str | None,
    category: str | None,
    tau: float | None,
    flip: bool | None,
    scales: str | None,
    zero_based: bool | None,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Score all models of the work directory on the test people; or any tool's predictions.

    \b
    fpd evaluate -w work/lsp
    fpd evaluate -w work/lsp --flip-test --scales 0.9,1,1.1
    fpd evaluate --predictions pred.mat --ground-truth gt_valid.mat --json scores.json
    fpd evaluate --predictions results.json --ground-truth person_keypoints_val2017.json
    """
    if predictions is None and ground_truth is None:
        if any(v is not None for v in (zero_based, json_path, sigmas, category)):
            raise click.ClickException(
                "--json, --zero-based/--one-based, --sigmas and --category go with --predictions"
            )
        options["overrides"] += passes_overrides(flip, scales)
        with stage(options, writes=False) as (work, recipe, device):
            evaluate_models(work, recipe, device, tau)
    elif predictions is None or ground_truth is None:
        raise click.ClickException(
            "--predictions and --ground-truth go together: give both or none"
        )
    elif flip is not None or scales is not None:
        raise click.ClickException("--flip-test and --scales ask models: not with --predictions")
    else:
        _refuse_given(options)
        chosen = {"sigmas": sigmas, "category": category}
        _score(predictions, ground_truth, tau, zero_based, json_path, chosen)


def evaluate_models(
    work: WorkDir, recipe: Recipe, device: torch.device, tau: float | None = None
) -> None:
    """Score all models and print the table."""
    from ..pipeline.evaluation import oks
    from ..pipeline.evaluation.report.scores import table
    from ..stages import evaluate

    report = evaluate.run(work, recipe, device, tau)
    click.echo("\n".join([table(report), *oks.lines(report["models"])]))
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
    chosen: dict[str, str | None],
) -> None:
    from ..stages.score import run
    from .summaries.score import describe

    try:
        category = _coco_settings(chosen) if any(v is not None for v in chosen.values()) else None
        report = run(
            predictions,
            ground_truth,
            tau=tau,
            zero_based=zero_based,
            category=category,
            json_path=json_path,
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{json_path}: {error.strerror}") from None
    click.echo(describe(report))
    if json_path is not None:
        click.echo(f"written to {json_path}")


def _coco_settings(chosen: dict[str, str | None]) -> Coco:
    """The options as the recipe's settings, checked as those are."""
    from ..pipeline.config.recipe import apply_overrides

    overrides = []
    if chosen["sigmas"] is not None:
        overrides.append(f"data.coco.sigmas=[{chosen['sigmas']}]")
    if chosen["category"] is not None:
        overrides.append(f"data.coco.category={json.dumps(chosen['category'])}")
    return apply_overrides({}, overrides).data.coco
