"""`fpd evaluate`: score a work directory's models, or another tool's predictions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..pipeline.runtime.text import printable
from .options import code_option, json_option, passes_options, passes_overrides, run_options, stage
from .terminal import echo

if TYPE_CHECKING:
    import torch

    from ..data.readers.coco_settings import Coco
    from ..pipeline.config.recipe import Recipe
    from ..pipeline.workdir import WorkDir


def _refuse_nan(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN, which click's ranges accept NaN: it is neither below nor above a limit."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("expected a number, found nan")
    return value


@click.command()
@run_options
@click.option(
    "--predictions",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Score these joints, of any tool, instead of models: .mat, .npz, .npy or .json, N x K x 2 "
    "or K x 2 x N. Needs --ground-truth and no work directory.",
)
@click.option(
    "--ground-truth",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="MPII's gt_valid.mat for PCKh, LSP's joints.mat for PCK, or an annotation file in COCO's "
    "format for OKS (then --predictions is in COCO's results format).",
)
@click.option(
    "--sigmas",
    metavar="NUMBERS",
    help="OKS tolerance of each joint, such as 0.05,0.03,..., for a file in COCO's format with "
    "other joints than COCO's.",
)
@click.option(
    "--category",
    metavar="NAME",
    help="Category to score, such as person, in a file in COCO's format with several kinds of "
    "joints.",
)
@click.option(
    "--tau",
    type=click.FloatRange(min=0, min_open=True, max=10),
    callback=_refuse_nan,
    help="PCK threshold of the means, in units of the normalizer length, such as 0.1.  [default: "
    "MPII 0.5, LSP 0.2]",
)
@click.option(
    "--model",
    "exported",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also score this file that `fpd export` wrote, such as student.onnx, as it is shipped. "
    "Repeatable.",
)
@passes_options
@code_option
@click.option(
    "--zero-based/--one-based",
    default=None,
    help="Whether the predictions count pixels from 0 or from 1.  [default: as the ground truth "
    "does]",
)
@json_option
def evaluate(
    predictions: Path | None,
    ground_truth: Path | None,
    sigmas: str | None,
    category: str | None,
    tau: float | None,
    exported: tuple[Path, ...],
    flip: bool | None,
    scales: str | None,
    allow_code: bool,
    zero_based: bool | None,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Score all models, or another tool's predictions.

    The models of the work directory are scored on the test samples.

    \b
    fpd evaluate -w work/lsp
    fpd evaluate -w work/lsp --model student.onnx
    fpd evaluate -w work/lsp --flip-test --scales 0.9,1,1.1
    fpd evaluate --predictions pred.mat --ground-truth gt_valid.mat --json scores.json
    fpd evaluate --predictions results.json --ground-truth person_keypoints_val2017.json
    """
    if predictions is None and ground_truth is None:
        if any(value is not None for value in (zero_based, json_path, sigmas, category)):
            raise click.ClickException(
                "--json, --zero-based/--one-based, --sigmas and --category need --predictions"
            )
        options["overrides"] += passes_overrides(flip, scales)
        with stage(options, writes=False) as (work, recipe, device):
            evaluate_models(work, recipe, device, tau, exported=exported, allow_code=allow_code)
        return
    if predictions is None or ground_truth is None:
        missing = "--predictions" if predictions is None else "--ground-truth"
        raise click.ClickException(
            f"expected both --predictions and --ground-truth, found no {missing}"
        )
    if flip is not None or scales is not None or exported:
        raise click.ClickException(
            "--model, --flip-test and --scales run models: not with --predictions"
        )
    _refuse_given(options)
    _score(predictions, ground_truth, tau, zero_based, json_path, sigmas, category)


def evaluate_models(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    tau: float | None = None,
    *,
    exported: tuple[Path, ...] = (),
    allow_code: bool,
) -> dict[str, Any]:
    """Score all models, print the table, and return the report."""
    from ..stages.evaluate import run
    from .summaries.evaluate import describe

    report = run(work, recipe, device, tau, exported=exported, allow_code=allow_code)
    echo(describe(report))
    echo(f"written to {work.evaluation}")
    return report


def _refuse_given(options: dict[str, Any]) -> None:
    """Refuse options of a work directory given with `--predictions`: they would have no effect."""
    context = click.get_current_context()
    unused = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name in options
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if unused:
        raise click.ClickException(f"{', '.join(unused)} has no effect with --predictions: omit it")


def _score(
    predictions: Path,
    ground_truth: Path,
    tau: float | None,
    zero_based: bool | None,
    json_path: Path | None,
    sigmas: str | None,
    category: str | None,
) -> None:
    """Score a file of predictions and print the scores."""
    from ..stages.score import run
    from .summaries.score import describe

    try:
        report = run(
            predictions,
            ground_truth,
            tau=tau,
            zero_based=zero_based,
            category=_coco_settings(sigmas, category),
            json_path=json_path,
        )
    except ValueError as error:
        raise click.ClickException(printable(str(error))) from None
    except OSError as error:
        raise click.ClickException(f"{json_path}: {error.strerror}") from None
    echo(describe(report))
    if json_path is not None:
        echo(f"written to {json_path}")


def _coco_settings(sigmas: str | None, category: str | None) -> Coco | None:
    """`--sigmas` and `--category` as the recipe's `data.coco`, which checks them; None: neither."""
    from ..pipeline.config.recipe import apply_overrides

    overrides = []
    if sigmas is not None:
        overrides.append(f"data.coco.sigmas=[{sigmas}]")
    if category is not None:
        overrides.append(f"data.coco.category={json.dumps(category)}")
    return apply_overrides({}, overrides).data.coco if overrides else None
