"""Beside the stages: a finished model's joints on photographs and videos.

    fpd predict photo.jpg -w work/demo --box 40,20,120,260
    fpd predict photos/ -w work/demo --boxes boxes.json -o predictions
    fpd predict clip.mp4 --model student.onnx --detector yolo11n.onnx

Reads a model's folder or an exported file, images, videos, and people's boxes, or a detector that
finds them; boxes of crowds, other categories and low scores are left out (`data.io.boxes`). Writes
`predictions.json`, a list in COCO's results format; `joints.json`, the names of the model's joints;
and a drawing of each image. For each video, a drawn one and its JSON (`prediction.videos`).

A result is one person on a photograph:

    image_id     as in the file of boxes, else the file's name
    file_name    without folders
    category_id  the box's, 1 where it has none
    bbox         [x, y, w, h] as given, of edges: a whole image is [0, 0, W, H]
    keypoints    [x, y, peak] * K, in the order of `joints.json`
    score        mean peak, times the box's own score

Joints are in pixels of the image as viewers show it (`data.io.photos`), the center of the top-left
pixel being (0, 0): the convention of all of this package, and how HRNet and mmpose read COCO's
keypoints.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from ..data.io.boxes import Box, match_images, people_boxes, read_boxes
from ..data.io.media import Media, find_media
from ..data.io.photos import Photos
from ..data.io.videos import live_name, open_live, open_video, without_secrets
from ..data.limits import MIN_SCORE
from ..data.skeletons import Skeleton
from ..pipeline.config.recipe import Recipe
from ..pipeline.config.sections import Loader
from ..pipeline.detectors import check_detector, load_detector, whole_pictures
from ..pipeline.evaluation.overlay import overlay_name
from ..pipeline.prediction.finders import Finder, detected, same_box
from ..pipeline.prediction.people import Pictures
from ..pipeline.prediction.photos import PhotoPredictor, PhotoResults
from ..pipeline.prediction.pose_model import PoseModel, open_model, trained_model
from ..pipeline.prediction.videos import VideoRequest, VideoResult, output_paths, predict_video
from ..pipeline.runtime.files import make_writable
from ..pipeline.runtime.interrupt import Interrupted, Stop, stop_requested
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.runtime.text import pluralize
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

STOPPED_EARLY = "stopped before the first prediction; run the same command again"


@dataclass(frozen=True)
class PredictRequest:
    """What to predict, and where to write it.

    Attributes:
        inputs: image and video files, folders of them, and patterns such as `photos/*.jpg`.
        out: folder to write to.
        source: a camera's number, or a stream's address; None: none.
        model: an exported file, or a model's folder; None: a model of the work directory.
        box: (x, y, w, h) of the person on the only input, pixels; None: the whole picture.
        boxes: file of the images' boxes (`data.io.boxes`); None: see `box` and `detector`.
        detector: what finds people (`pipeline.detectors`); None: see `box` and `boxes`.
        category: name or id of the category of `boxes` to predict; None: people.
        min_score: least score of a box of `boxes`, or of the detector's.
        draw: whether to write drawings.
        as_stored: ignore the orientation tags of photographs and videos.
        every: of a video, predict each `every`-th frame.
        max_frames: of a video, predict up to so many; None: all.
    """

    inputs: tuple[Path, ...]
    out: Path
    source: str | None = None
    model: Path | None = None
    box: tuple[float, float, float, float] | None = None
    boxes: Path | None = None
    detector: str | None = None
    category: str | None = None
    min_score: float = MIN_SCORE
    draw: bool = True
    as_stored: bool = False
    every: int = 1
    max_frames: int | None = None


@dataclass(frozen=True)
class PredictResult:
    """What was predicted, and what was not.

    Attributes:
        people, images: numbers of those predicted on photographs.
        videos: what was predicted of each video.
        problems: a message for each image, video or box that could not be used. (What ended a
            video early is in its own result.)
        images_without_box: images of which the file of boxes has no person.
        images_without_person: images on which the detector found no person.
        boxes_without_image: boxes of images that were not given.
        boxes_left_out: numbers of the given images' boxes that are not of people, by reason.
    """

    people: int
    images: int
    videos: tuple[VideoResult, ...]
    problems: tuple[str, ...]
    images_without_box: int
    images_without_person: int
    boxes_without_image: int
    boxes_left_out: dict[str, int]


@dataclass(frozen=True)
class Boxes:
    """What is known of the photographs' boxes beforehand.

    Attributes:
        images: indices of the photographs to predict.
        find: gives a photograph's boxes.
        without_image, left_out: see `PredictResult`.
    """

    images: Sequence[int]
    find: Finder
    without_image: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


def run(
    work: WorkDir, recipe: Recipe, device: torch.device, name: str, request: PredictRequest
) -> PredictResult:
    """Predict the joints of all people on the photographs and videos.

    Args:
        name: the model's folder in the work directory, unless the request has a model.

    Returns:
        Counts, and the problems of single images, videos and boxes, which do not stop the others.

    Raises:
        ValueError: there is no such model, no input or box, nowhere to write to, or no input could
            be used.
        Interrupted: after SIGINT or SIGTERM; finished predictions are written. SIGINT is the
            regular end of a camera or a stream.
    """
    media = Media((), ())
    if request.inputs or request.source is None:
        media = find_media(request.inputs)
    _check_options(request, media)
    _check_names(request, media)
    model = (
        trained_model(work.model(name), device)
        if request.model is None
        else open_model(request.model, device)
    )
    find = _finder(request, device)
    boxes = _find_boxes(request, media.photos, model.skeleton, find)
    _check_out(request.out, media.paths)  # after all checks of what is read: it makes the folder
    # Images are read in this process: a loader process that fails on a damaged image can hang.
    recipe = recipe.model_copy(update={"loader": Loader(workers=0)})
    photos = Photos(media.photos, as_stored=request.as_stored)
    results, videos = PhotoResults(), list[VideoResult]()
    with writer_lock(request.out, inside=True), stop_requested() as stop:
        if media.photos:
            PhotoPredictor(model, recipe, photos, boxes.find, request.out, request.draw).run(
                boxes.images, results, stop
            )
        _predict_videos(request, media, model, recipe, find, results.problems, videos, stop)
    _check_results(request, results, videos, stop)
    return PredictResult(
        people=len(results.people),
        images=len({person["file_name"] for person in results.people}),
        videos=tuple(videos),
        problems=tuple(results.problems),
        images_without_box=len(media.photos) - len(boxes.images),
        images_without_person=results.empty,
        boxes_without_image=boxes.without_image,
        boxes_left_out=boxes.left_out,
    )


def _check_options(request: PredictRequest, media: Media) -> None:
    """Check that options fit each other and the inputs, before anything is loaded.

    Raises:
        ValueError: naming those that do not.
    """
    videos = len(media.videos) + (request.source is not None)
    given = [
        option
        for option, value in (
            ("--box", request.box),
            ("--boxes", request.boxes),
            ("--detector", request.detector),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise ValueError(
            "expected --box for one picture, --boxes for several, or --detector, found both "
            f"{' and '.join(given)}"
        )
    if request.category is not None and request.boxes is None:
        raise ValueError("--category is for a file of boxes: give one with --boxes")
    if request.box is not None and (count := len(media.paths) + (request.source is not None)) != 1:
        raise ValueError(
            f"--box is for one image, found {count}: give a file of boxes with --boxes"
        )
    if request.boxes is not None and videos:
        raise ValueError("--boxes is for photographs: find the people on videos with --detector")
    if not videos and (request.every != 1 or request.max_frames is not None):
        raise ValueError("--every and --max-frames are for videos, found none")
    if request.detector is not None:
        check_detector(request.detector)
    elif not given:
        log.warning("%s", whole_pictures(len(media.photos), videos))


def _check_names(request: PredictRequest, media: Media) -> None:
    """Check that no two inputs have results of one name, such as a.bmp and a.bmp.png.

    Raises:
        ValueError: two have.
    """
    videos = _video_request(request)
    files: list[tuple[Path | str, Sequence[Path]]] = [
        *((path, [request.out / overlay_name(path.name)]) for path in media.photos if request.draw),
        *((path, output_paths(path.name, videos)) for path in media.videos),
    ]
    if request.source is not None:
        name = live_name(request.source)
        files.append((f"--source {without_secrets(request.source)}", output_paths(name, videos)))
    by_result: dict[Path, Path | str] = {}
    for source, results in files:
        for result in results:
            other = by_result.setdefault(result, source)
            if other != source:
                raise ValueError(
                    f"{other} and {source} would both be written to {result}: predict them in two "
                    "calls, each with its own -o"
                )


def _video_request(request: PredictRequest) -> VideoRequest:
    return VideoRequest(request.out, request.draw, request.every, request.max_frames)


def _finder(request: PredictRequest, device: torch.device) -> Finder:
    """What finds people where no file has them."""
    if request.detector is None:
        return same_box(request.box)
    detector = load_detector(request.detector)
    detector.to(device)
    return detected(detector, request.min_score)


def _find_boxes(
    request: PredictRequest, paths: Sequence[Path], skeleton: Skeleton, find: Finder
) -> Boxes:
    """The people's boxes on the given images; without a file of boxes, those that `find` finds.

    Raises:
        ValueError: the file of boxes has no person of a given image.
    """
    if request.boxes is None:
        return Boxes(range(len(paths)), find)
    file = read_boxes(request.boxes)
    matched, without_image = match_images(file, paths)
    if not matched:
        raise ValueError(
            f"{request.boxes} has {pluralize(len(file.boxes), 'box', 'boxes')}, but none of a "
            f"given image: its first box is of {file.boxes[0].image!r}, the first image is "
            f"{paths[0].name!r}"
        )
    people, left_out = people_boxes(
        file,
        matched,
        skeleton=skeleton.name,
        category=request.category,
        min_score=request.min_score,
    )
    if not people:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"{request.boxes} has no person's box on the given images; left out: {reasons} (see "
            "--category, --min-score)"
        )
    return Boxes(sorted(people), partial(_of_file, people), without_image, left_out)


def _of_file(people: dict[int, list[Box]], _: Pictures, index: int) -> list[Box | None]:
    return [*people[index]]


def _check_out(out: Path, paths: Iterable[Path]) -> None:
    """Check that `out` can be written to, and that drawings do not replace the inputs.

    Raises:
        ValueError: `out` is a folder of the images, no folder, or not writable.
    """
    # Of a link both folders: the drawing would replace the link, or what it leads to.
    folders = {f for path in paths for f in (path.parent.resolve(), path.resolve().parent)}
    if out.resolve() in folders:
        raise ValueError(
            f"{out} is the folder of the images, which drawings would replace: name another with -o"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"-o {out}: expected a folder, found a file")
    make_writable(out, "the folder of predictions", "name another with -o")


def _predict_videos(
    request: PredictRequest,
    media: Media,
    model: PoseModel,
    recipe: Recipe,
    find: Finder,
    problems: list[str],
    videos: list[VideoResult],
    stop: Stop,
) -> None:
    """Predict the videos, then the live source; results and problems are added to the lists."""
    files = _video_request(request)
    opened = [
        (partial(open_video, path, as_stored=request.as_stored), files) for path in media.videos
    ]
    if request.source is not None:
        live = replace(files, is_live=True)
        opened.append((partial(open_live, request.source), live))
    for open_source, video_request in opened:
        if stop.is_set():
            return
        try:
            with open_source() as video:
                videos.append(predict_video(video, model, recipe, find, video_request, stop))
        except ValueError as error:
            problems.append(str(error))


def _check_results(
    request: PredictRequest, results: PhotoResults, videos: list[VideoResult], stop: Stop
) -> None:
    """Raise what ended the work, if it is not done; problems of the finished part are logged.

    Raises:
        ValueError: no input could be used.
        Interrupted: `stop` is set; the message states what is written.
    """
    is_live_end = videos and videos[-1].is_live and stop.signal == signal.SIGINT
    if stop.is_set() and not is_live_end:
        done = []
        if results.people:
            done.append(f"the joints of {pluralize(len(results.people), 'person', 'people')}")
        if videos:
            done.append(f"{pluralize(sum(v.frames for v in videos), 'frame')} of videos")
        for problem in (*results.problems, *(p for video in videos for p in video.problems)):
            log.warning("%s", problem)
        message = f"stopped: {request.out} has {' and '.join(done)}" if done else STOPPED_EARLY
        raise Interrupted(message, stop.signal)
    if results.problems and not (results.people or results.empty or videos):
        raise ValueError(f"nothing could be predicted: {results.problems[0]}")
