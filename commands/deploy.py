"""What becomes of a trained student: its joints on photographs, a file to ship, its costs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import click

from .options import passes_options, passes_overrides, run_options, stage


@click.command()
@run_options
@click.argument("images", metavar="IMAGE|FOLDER...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--name", default="student", show_default=True, help="The model's folder.")
@click.option(
    "--box",
    metavar="X,Y,W,H",
    help="The person's box on the one image: left and top edge, width, height, in pixels.  "
    "[default: the whole image, as it is]",
)
@click.option(
    "--boxes",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Boxes of many: COCO's annotations or detections, a list of "
    '{"image": name, "bbox": [x, y, w, h]}, or CSV: image,x,y,w,h.',
)
@passes_options
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where predictions.json and the drawings go.  [default: predictions/NAME in the work "
    "directory]",
)
@click.option("--draw/--no-draw", default=True, show_default=True, help="Draw the people found.")
@click.option(
    "--as-stored",
    is_flag=True,
    help="Ignore orientation tags: photos are else turned as viewers show them, and boxes and "
    "joints refer to that.",
)
def predict(
    images: tuple[Path, ...],
    name: str,
    box: str | None,
    boxes: Path | None,
    flip: bool | None,
    scales: str | None,
    out: Path | None,
    draw: bool,
    as_stored: bool,
    **options: Any,
) -> None:
    """Find people's joints in photographs, given their boxes.

    \b
    fpd predict photo.jpg -w work/lsp --box 40,20,120,260
    fpd predict photos/ -w work/lsp --boxes boxes.json -o predictions
    """
    from ..pipeline.runtime.text import pluralize
    from ..stages.predict import PredictRequest, run

    options["overrides"] += passes_overrides(flip, scales)
    with stage(options, writes=False) as (work, recipe, device):
        if box is not None and boxes is not None:
            raise ValueError("expected --box for one image or --boxes for many, found both")
        out = out or work.root / "predictions" / name
        wanted = PredictRequest(images, out, _numbers(box), boxes, draw, as_stored)
        done = run(work, recipe, device, name, wanted)
        people, found = pluralize(done.people, "person", "people"), pluralize(done.images, "image")
        click.echo(f"predicted {people} on {found}: written to {out}")
        if done.unboxed or done.unmatched:
            click.echo(
                f"without a box in {boxes}, and left out: {pluralize(done.unboxed, 'image')}; boxes "
                f"on images that were not named: {done.unmatched}"
            )
        for problem in done.problems:
            click.echo(problem, err=True)
        if done.problems:
            unusable = pluralize(len(done.problems), "image or box", "images or boxes")
            raise ValueError(f"{unusable}, named above, could not be used; {out} has the others")


@click.command()
@run_options
@click.option("--name", default="student", show_default=True, help="The model's folder.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "torch-export"]),
    default="onnx",
    show_default=True,
    help="ONNX, for onnxruntime and others, or PyTorch's exported program.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file; FILE.json is written beside it.  [default: NAME.onnx or NAME.pt2 in the "
    "model's folder]",
)
@click.option(
    "--quantize",
    type=click.Choice(["dynamic", "static"]),
    help="Eight-bit integers, by onnxruntime; prints PCK, size and time of both.",
)
def export(
    name: str,
    kind: Literal["onnx", "torch-export"],
    out: Path | None,
    quantize: Literal["dynamic", "static"] | None,
    **options: Any,
) -> None:
    """Write a finished model as one file, from uint8 crops to joints, compared with PyTorch first.

    \b
    fpd export -w work/lsp -o student.onnx
    fpd export -w work/lsp --quantize static
    """
    from ..stages.export import run
    from .summaries.export import describe

    with stage(options, writes=False) as (work, recipe, _):
        report = run(work, recipe, name, kind=kind, out=out, method=quantize)
        click.echo(describe(report))


@click.command()
@run_options
@click.option(
    "--name",
    "names",
    multiple=True,
    help="A model's folder; may be given several times.  [default: all that are finished]",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1, max=4096),
    default=32,
    show_default=True,
    help="The larger of the two batch sizes that are timed; the other one is 1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def profile(names: tuple[str, ...], batch: int, as_json: bool, **options: Any) -> None:
    """Print what finished models cost here: parameters, GMACs, memory, milliseconds.

    \b
    fpd profile -w work/lsp --batch 64
    """
    from ..stages.profile import run
    from .summaries.profile import describe

    with stage(options, writes=False) as (work, recipe, device):
        report = run(work, recipe, device, names, batch)
        click.echo(json.dumps(report, indent=2) if as_json else describe(report))


def _numbers(box: str | None) -> tuple[float, float, float, float] | None:
    if box is None:
        return None
    try:
        x, y, w, h = map(float, box.split(","))
    except ValueError:
        x = y = w = h = math.nan
    if not all(map(math.isfinite, (x, y, w, h))):
        raise ValueError(f"expected --box X,Y,W,H in numbers, found {box!r}")
    return x, y, w, h
