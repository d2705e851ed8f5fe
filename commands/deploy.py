"""What follows training: joints on photographs, a model as one file, its cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from ..pipeline.runtime.text import printable
from .options import json_option, passes_options, passes_overrides, run_options, stage
from .terminal import echo

if TYPE_CHECKING:
    from ..pipeline.models.export.registry import Kind
    from ..stages.predict import PredictRequest, PredictResult


@click.command()
@run_options
@click.argument(
    "inputs", metavar="IMAGE|VIDEO|FOLDER...", nargs=-1, type=click.Path(path_type=Path)
)
@click.option("--name", default="student", show_default=True, help="The model's folder.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Use this model, and no work directory: a file that `fpd export` wrote, such as "
    "student.onnx, or the folder of a finished model.",
)
@click.option(
    "--source",
    metavar="NUMBER|URL",
    help="Predict a camera, 0 being the first one, or a stream, such as rtsp://..., until Ctrl-C.",
)
@click.option(
    "--box",
    metavar="X,Y,W,H",
    help="The person's box on the only image or video, such as 40,20,120,260: left edge, top edge, "
    "width, height, pixels.  [default: the whole picture]",
)
@click.option(
    "--boxes",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File of boxes: COCO's annotations or detections, a list of "
    '{"image": name, "bbox": [x, y, w, h]}, or CSV with the columns image,x,y,w,h. Crowd regions '
    "are left out.",
)
@click.option(
    "--detector",
    metavar="SOURCE",
    help="Without --boxes: find people with a YOLO export (.onnx) or a detector of Hugging Face's "
    "(a folder or hf:ORG/NAME), on images and videos.",
)
@click.option(
    "--category",
    metavar="NAME|ID",
    help="The category of --boxes to predict.  [default: person]",
)
@click.option(
    "--min-score",
    type=click.FloatRange(min=0),
    default=0.3,
    show_default=True,
    help="Leave out boxes of --boxes or --detector with a lower score.",
)
@passes_options
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder for predictions.json and the drawings.  [default: predictions/NAME in the work "
    "directory; with --model and no -w, in this folder]",
)
@click.option(
    "--draw/--no-draw",
    default=True,
    show_default=True,
    help="Draw the joints over each image and each frame.",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Predict every N-th frame of a video.",
)
@click.option(
    "--max-frames",
    type=click.IntRange(min=1),
    metavar="N",
    help="Predict up to N frames of a video, a camera or a stream.  [default: all]",
)
@click.option(
    "--as-stored",
    is_flag=True,
    help="Ignore orientation tags. Otherwise photos and videos are turned as viewers show them, "
    "and boxes and joints refer to the turned picture.",
)
def predict(
    inputs: tuple[Path, ...],
    name: str,
    model: Path | None,
    source: str | None,
    box: str | None,
    boxes: Path | None,
    detector: str | None,
    category: str | None,
    min_score: float,
    flip: bool | None,
    scales: str | None,
    out: Path | None,
    draw: bool,
    every: int,
    max_frames: int | None,
    as_stored: bool,
    **options: Any,
) -> None:
    """Predict people's joints on photographs and videos.

    People are found by a detector, or given as boxes; without both, a picture is one person.

    \b
    fpd predict photo.jpg -w work/lsp --box 40,20,120,260
    fpd predict photos/ -w work/lsp --boxes boxes.json -o predictions
    fpd predict clip.mp4 "photos/*.jpg" --model student.onnx --detector yolo11n.onnx
    fpd predict --source 0 --model student.onnx --detector yolo11n.onnx --max-frames 300
    """
    options["overrides"] += passes_overrides(flip, scales)
    if model is not None:
        name = _model_name(model)
        options["work"] = options["work"] or Path()
    with stage(options, writes=False, needs_recipe=False) as (work, recipe, device):
        from ..stages.predict import PredictRequest, run

        request = PredictRequest(
            inputs=inputs,
            out=out or work.root / "predictions" / name,
            source=source,
            model=model,
            box=_parse_box(box),
            boxes=boxes,
            detector=detector,
            category=category,
            min_score=min_score,
            draw=draw,
            as_stored=as_stored,
            every=every,
            max_frames=max_frames,
        )
        result = run(work, recipe, device, name, request)
        _report_prediction(result, request)


@click.command()
@run_options
@click.option("--name", default="student", show_default=True, help="The model's folder.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "torch-export", "openvino", "tflite"]),
    default="onnx",
    show_default=True,
    help="ONNX, for ONNX Runtime and others; PyTorch's exported program; OpenVINO's, for Intel's "
    "processors; TFLite, for LiteRT on phones.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The model's file, such as student.onnx; FILE.json, which describes it, and FILE.md, its "
    "model card, are written beside it.  [default: in the model's folder, such as NAME.onnx]",
)
@click.option(
    "--quantize",
    type=click.Choice(["dynamic", "static"]),
    help="Quantize to 8-bit integers with ONNX Runtime; prints PCK, size and time of both models.",
)
@click.option(
    "--license",
    "license_name",
    metavar="NAME",
    help="The model's license for its card, such as apache-2.0 or cc-by-nc-4.0.  [default: the "
    "card says that none is stated]",
)
@click.option(
    "--push-to-hub",
    "repository",
    metavar="ORG/NAME",
    help="Also upload the file, its JSON and its card to this model on the Hugging Face hub, which "
    "is created if there is none.",
)
@click.option("--private", is_flag=True, help="Create the model of --push-to-hub as a private one.")
def export(
    name: str,
    kind: Kind,
    out: Path | None,
    quantize: Literal["dynamic", "static"] | None,
    license_name: str | None,
    repository: str | None,
    private: bool,
    **options: Any,
) -> None:
    """Export a finished model as one file.

    It maps uint8 crops to joints, and is written if its output agrees with PyTorch's.

    \b
    fpd export -w work/lsp -o student.onnx
    fpd export -w work/lsp --quantize static
    fpd export -w work/lsp --license apache-2.0 --push-to-hub my-team/lsp-student
    """
    with stage(options, writes=False, needs_recipe=quantize is not None) as (work, recipe, _):
        from ..pipeline.models.export.upload import HubTarget
        from ..stages.export import run
        from .summaries.export import describe

        if private and repository is None:
            raise ValueError("--private is about the upload: expected --push-to-hub ORG/NAME too")
        report = run(
            work,
            recipe,
            name,
            kind=kind,
            out=out,
            method=quantize,
            license_name=license_name,
            hub=None if repository is None else HubTarget(repository, private=private),
        )
        echo(describe(report))


@click.command()
@run_options
@click.option(
    "--name",
    "names",
    multiple=True,
    help="A model's folder, such as student. Repeatable.  [default: all finished models]",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1, max=4096),
    default=32,
    show_default=True,
    help="The larger of the two batch sizes that are timed; the other is 1.",
)
@json_option
def profile(names: tuple[str, ...], batch: int, json_path: Path | None, **options: Any) -> None:
    """Print size, memory and speed of finished models.

    \b
    fpd profile -w work/lsp --batch 64
    """
    with stage(options, writes=False, needs_recipe=False) as (work, recipe, device):
        from ..stages.profile import run
        from .summaries.profile import describe

        echo(describe(run(work, recipe, device, names, batch, json_path)))
        if json_path is not None:
            echo(f"written to {json_path}")


def _parse_box(box: str | None) -> tuple[float, float, float, float] | None:
    """The four numbers of `--box`.

    Raises:
        ValueError: they are not four finite numbers.
    """
    if box is None:
        return None
    try:
        x, y, w, h = map(float, box.split(","))
    except ValueError:
        x = y = w = h = math.nan
    if not all(map(math.isfinite, (x, y, w, h))):
        raise ValueError(f"expected --box X,Y,W,H in numbers, found {box!r}")
    return x, y, w, h


def _model_name(model: Path) -> str:
    """The name of the model of `--model`, for the folder of its predictions.

    Raises:
        click.ClickException: --name is given, too.
    """
    given = click.get_current_context().get_parameter_source("name")
    if given is ParameterSource.COMMANDLINE:
        raise click.ClickException("expected --name or --model, found both")
    has_name = model.name not in ("", "..")
    return (model if has_name else model.resolve()).stem


def _report_prediction(result: PredictResult, request: PredictRequest) -> None:
    """Print what was predicted, and the problems.

    Raises:
        ValueError: there are problems.
    """
    from .summaries.predict import describe, describe_failures

    echo(describe(result, request))
    for problem in (*result.problems, *(p for v in result.videos for p in v.problems)):
        echo(printable(problem), err=True)
    failures = describe_failures(result, request)
    if failures is not None:
        raise ValueError(failures)
