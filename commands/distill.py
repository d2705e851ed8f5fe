"""`fpd distill`: from a folder of photographs and a published teacher to a student's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import code_option, keep_recipe, place_options, settings_options, stage
from .terminal import echo
from .train import run_stages

if TYPE_CHECKING:
    import torch

    from ..pipeline.config.recipe import Recipe
    from ..pipeline.workdir import WorkDir


@click.command()
@click.argument("photos", metavar="PHOTOS", type=click.Path(path_type=Path))
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="SOURCE",
    help="Teacher, as of `fpd cache-heatmaps`: an ONNX, TFLite or .pt2 file, a ViTPose folder, "
    "hf:ORG/NAME, package.module:factory and others (docs/teachers.md). Repeatable: the outputs "
    "are averaged.  [default: the recipe's store.teachers]",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("student.onnx"),
    show_default=True,
    metavar="FILE",
    help="The student's file; FILE.json, which describes it, is written beside it.",
)
@click.option(
    "--boxes",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="People's boxes: CSV with the columns image,x,y,width,height, COCO's annotations or "
    "detections, or a folder of YOLO's text files.",
)
@click.option(
    "--detector",
    metavar="SOURCE",
    help="Without --boxes: find people with a YOLO export (.onnx) or a detector of Hugging Face's "
    "(a folder or hf:ORG/NAME). What it finds is kept in boxes.csv in the work directory.",
)
@click.option(
    "--labels",
    metavar="READER",
    help="Score on the test people of a labeled data set in PHOTOS, such as lsp, whose photographs "
    "are then not trained on.  [default: compare with the teacher on held-out photographs]",
)
@click.option(
    "-w",
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    help="Work directory, which holds the recipe and the files of all stages.  [default: work/NAME "
    "for -o NAME.onnx]",
)
@settings_options
@place_options
@code_option
def distill(
    photos: Path,
    teachers: tuple[str, ...],
    out: Path,
    boxes: Path | None,
    detector: str | None,
    labels: str | None,
    work: Path | None,
    allow_code: bool,
    **options: Any,
) -> None:
    """Distill a teacher into a student, on photographs without labels.

    Photographs are checked, the teacher's heatmaps cached, a student is trained on them, compared
    with the teacher and exported. The same command again continues where it was stopped.

    \b
    fpd distill photos/ --teacher pose_landmark_full.tflite -o student.onnx
    fpd distill photos/ --teacher rtmpose/end2end.onnx --detector yolo11n.onnx -o student.onnx
    fpd distill photos/ --teacher hf:usyd-community/vitpose-base-simple --boxes people.csv
    """
    from ..pipeline.workdir import WorkDir

    options["work"] = Path("work") / out.stem if work is None else work
    settings: dict[str, Any] = {
        "data.root": str(photos),
        "data.photos.boxes": None if boxes is None else str(boxes),
        "data.photos.detector": detector,
        "data.photos.labels": labels,
        "store.teachers": list(teachers) or None,
    }
    chosen = tuple(f"{k}={json.dumps(v)}" for k, v in settings.items() if v is not None)
    options["overrides"] = (*chosen, *options["overrides"])
    is_new = not WorkDir(options["work"]).kept_recipe.is_file()
    default = "photos" if is_new else None
    with stage(options, default_recipe=default, writes=False) as (work_dir, recipe, device):
        # Teachers on this command line are the user's own choice; a recipe's may be another's.
        _distill(work_dir, recipe, device, out, allow_code=allow_code or bool(teachers))


def _distill(
    work: WorkDir, recipe: Recipe, device: torch.device, out: Path, *, allow_code: bool
) -> None:
    from ..pipeline.config.recipe import DEFAULT_STUDENT
    from ..stages import export, prepare_photos
    from .summaries.distill import describe
    from .summaries.export import describe as describe_export

    export.check_request("onnx", out)
    prepare_photos.check_request(work, recipe, allow_code=allow_code)
    keep_recipe(work, recipe, "photos")
    reports = run_stages(work, recipe, device, allow_code=allow_code)
    with reports.timed("export"):
        exported = export.run(work, reports.recipe, DEFAULT_STUDENT, out=out)
    echo(describe_export(exported))
    echo(describe(reports, work.root, exported))
