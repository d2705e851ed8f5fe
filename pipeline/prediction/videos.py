"""A model's joints on the frames of a video: drawn over them, and as JSON.

`CLIP.mp4.json` has one entry per person of a frame:

    {"video": "clip.mp4", "width": 1280, "height": 720, "fps": 25.0, "every": 1,
     "skeleton": ..., "joints": [...], "limbs": [...],
     "people": [
       {"frame": 0, "time_s": 0.0, "bbox": [x, y, w, h], "keypoints": [x, y, peak] * K, "score": s},
       ...],
     "frames": 250}

`frame` counts the source's frames from 0; `fps` is the written video's. Both files get their names
once they are complete, whatever ended them: the last frame, a signal, or damage.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...data.io.videos import VideoInfo, VideoSource
from ...data.skeletons import Skeleton
from ..config.recipe import Recipe
from ..runtime.files import atomic
from ..runtime.interrupt import Stop
from ..runtime.text import shorten
from ..runtime.video_writer import SUFFIX, VideoWriter
from .finders import Finder
from .people import PixelSource, describe_skeleton, draw_poses, make_person, pose, sample_set
from .pose_model import PoseModel

FRAMES_PER_BATCH = 16
"""Frames that are predicted together; of a live source each alone."""

MAX_BATCH_PIXELS = 1 << 26
"""Of large frames, as many are predicted together: 200 MB as RGB."""

SHORT = 0.95
"""A video is noted as cut short if it has less than this share of the frames that it states. (Some
containers state an estimate.)"""

BAR_LETTERS = 40
"""Of a video's name in front of the progress bar."""

MAX_PAUSE_S = 10.0
"""For how long a live source's frame is repeated, at most."""

REPEATS_PER_WAIT = 2
"""A live source's frame is repeated for up to twice the time that it was waited for. Without this
limit, repeated frames that take longer to encode than to show would call for ever more of them."""

Frame = tuple[int, NDArray[np.uint8]]


@dataclass(frozen=True)
class VideoRequest:
    """How to go through a video.

    Attributes:
        out: folder of the results.
        draw: whether to write a video with drawings.
        every: predict and write each `every`-th frame.
        max_frames: stop after so many predicted frames; None: at the end.
        is_live: frames come by the clock, as from a camera: its video lasts as long as it did, and
            frames are repeated in it where prediction is slower. Where encoding is too slow for
            that, the video is shorter.
    """

    out: Path
    draw: bool = True
    every: int = 1
    max_frames: int | None = None
    is_live: bool = False


@dataclass
class VideoResult:
    """What was predicted of a video.

    Attributes:
        paths: the files that were written.
        is_live: as of the request.
        frames, people: numbers of those predicted; a person counts in each frame.
        seconds: of the work.
        problems: what ended it before its end, other than a signal, and what could not be written.
        note: that it has fewer frames than it states; None: it has them.
    """

    paths: tuple[Path, ...]
    is_live: bool = False
    frames: int = 0
    people: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    note: str | None = None


@dataclass
class _Output:
    """The open files, and what is in them."""

    request: VideoRequest
    skeleton: Skeleton
    info: VideoInfo
    text: TextIO
    writer: VideoWriter | None
    result: VideoResult
    started: float
    written_s: float = 0.0  # when the latest frame was written, since the start

    def begin(self) -> None:
        header = {
            "video": self.info.name,
            "width": self.info.width,
            "height": self.info.height,
            "fps": written_fps(self.info, self.request),
            "every": self.request.every,
            **describe_skeleton(self.skeleton),
        }
        self.text.write(json.dumps(header)[:-1] + ', "people": [')

    def add(self, frame: Frame, poses: list[dict[str, Any]]) -> None:
        """Write a frame and its people."""
        number, pixels_HW3 = frame
        elapsed_s = monotonic() - self.started
        time_s = elapsed_s if self.request.is_live else number / self.info.fps
        for row in poses:
            row = {"frame": number, "time_s": round(time_s, 4)} | row
            self.text.write(("," if self.result.people else "") + "\n" + json.dumps(row))
            self.result.people += 1
        self.result.frames += 1
        if self.writer is not None:
            drawn_HW3 = draw_poses(pixels_HW3, poses, self.skeleton)
            for _ in range(self._copies(elapsed_s)):
                self.writer.write(drawn_HW3)
            self.written_s = monotonic() - self.started

    def _copies(self, elapsed_s: float) -> int:
        """How often a frame is written: of a live source, until the video is as long as it."""
        if not self.request.is_live or self.writer is None:
            return 1
        missing = int(elapsed_s * self.info.fps) + 1 - self.writer.count
        longest_s = min(REPEATS_PER_WAIT * (elapsed_s - self.written_s), MAX_PAUSE_S)
        return max(1, min(missing, 1 + int(longest_s * self.info.fps)))

    def end(self) -> None:
        """Complete both files; of a video that could not be written, the result is without it."""
        if self.writer is not None:
            try:
                self.writer.close()
            except ValueError as error:
                text_path, video_path = self.result.paths
                self.result.problems.append(f"{video_path} was not written: {error}")
                self.result.paths = (text_path,)
                self.writer.path.unlink(missing_ok=True)  # the disk may be full
        self.text.write(f'\n], "frames": {self.result.frames}}}\n')


def written_fps(info: VideoInfo, request: VideoRequest) -> float:
    """Frames per second of the written video; it takes as long as the source."""
    return info.fps if request.is_live else info.fps / request.every


def output_paths(name: str, request: VideoRequest) -> tuple[Path, ...]:
    """The files of a video's results: JSON, and MP4 if it is drawn."""
    path = request.out / (name if name.lower().endswith(SUFFIX) else f"{name}{SUFFIX}")
    text = path.with_name(f"{path.name}.json")
    return (text, path) if request.draw else (text,)


def predict_video(
    video: VideoSource,
    model: PoseModel,
    recipe: Recipe,
    find: Finder,
    request: VideoRequest,
    stop: Stop,
) -> VideoResult:
    """Predict the people on a video's frames, and write the results.

    Args:
        stop: ends it after the frames at hand; what was predicted is written.

    Returns:
        What was written. An error after the first frames ends the video there.

    Raises:
        ValueError: no frame could be decoded or predicted, or they cannot be encoded; nothing is
            written.
    """
    paths = output_paths(video.info.name, request)
    result = VideoResult(paths, request.is_live)
    with TemporaryDirectory(dir=request.out, prefix=".video-") as folder:
        writer = _writer(Path(folder), video.info, request)
        try:
            with atomic(paths[0]) as temporary, temporary.open("w", encoding="utf-8") as text:
                output = _Output(
                    request, model.skeleton, video.info, text, writer, result, monotonic()
                )
                _fill(output, video, model, recipe, find, stop)
        finally:
            if writer is not None:
                writer.release()
        if writer is not None and result.paths == paths:
            with atomic(paths[1]) as temporary:
                writer.path.replace(temporary)
    if not result.problems:
        result.note = _cut_short(video, request, stop)
    return result


def _fill(
    output: _Output,
    video: VideoSource,
    model: PoseModel,
    recipe: Recipe,
    find: Finder,
    stop: Stop,
) -> None:
    """Predict the frames into the open files, until the end, an error or a signal.

    Raises:
        ValueError: there is no frame, or the first ones cannot be predicted.
    """
    result = output.result
    output.begin()
    try:
        frames = _frames(video, output.request, result)
        _predict_frames(frames, output, model, recipe, find, stop, video.locator)
    except ValueError as error:
        if not result.frames:
            raise
        result.problems.append(str(error))
    result.seconds = monotonic() - output.started
    if not result.frames:
        raise ValueError(
            result.problems[0]
            if result.problems
            else f"{video.locator}: no frame could be decoded: replace or remove it"
        )
    output.end()


def _writer(folder: Path, info: VideoInfo, request: VideoRequest) -> VideoWriter | None:
    if not request.draw:
        return None
    path = folder / f"frames{SUFFIX}"  # the container is chosen by the suffix
    return VideoWriter(path, written_fps(info, request), info.width, info.height)


def _frames(video: VideoSource, request: VideoRequest, result: VideoResult) -> Iterator[Frame]:
    """The frames to predict, until the end, `max_frames`, or damage, which goes to the result."""
    try:
        yield from itertools.islice(video.frames(request.every), request.max_frames)
    except ValueError as error:
        result.problems.append(str(error))


def _predict_frames(
    frames: Iterator[Frame],
    output: _Output,
    model: PoseModel,
    recipe: Recipe,
    find: Finder,
    stop: Stop,
    locator: str,
) -> None:
    info, request = output.info, output.request
    fitting = MAX_BATCH_PIXELS // (info.width * info.height)
    size = 1 if request.is_live else max(1, min(FRAMES_PER_BATCH, fitting))
    total = min(-(-info.frames // request.every), request.max_frames or info.frames)
    name = shorten(info.name, BAR_LETTERS)
    with tqdm(total=total or None, desc=name, unit="frame", leave=False, disable=None) as bar:
        while not stop.is_set() and (batch := list(itertools.islice(frames, size))):
            for frame, poses in zip(
                batch, _poses(batch, model, recipe, find, locator), strict=True
            ):
                output.add(frame, poses)
            bar.update(len(batch))


def _poses(
    batch: list[Frame], model: PoseModel, recipe: Recipe, find: Finder, locator: str
) -> list[list[dict[str, Any]]]:
    """The people of each frame."""
    names = [f"{locator}, frame {number}" for number, _ in batch]
    pictures = PixelSource([pixels for _, pixels in batch], names, reduces=True)
    people = [
        make_person(pictures, index, box, pictures.size(index))
        for index in range(len(batch))
        for box in find(pictures, index)
    ]
    poses: list[list[dict[str, Any]]] = [[] for _ in batch]
    if people:
        predicted = model.predict(recipe, sample_set(pictures, people, model.skeleton))
        for person, joints_K2, peaks_K in zip(
            people, predicted.joints_NK2, predicted.peaks_NK, strict=True
        ):
            poses[person.image].append(pose(person, joints_K2, peaks_K))
    return poses


def _cut_short(video: VideoSource, request: VideoRequest, stop: Stop) -> str | None:
    """That a video ended long before the end that it states; None: it did not."""
    if request.max_frames is not None or stop.is_set():
        return None
    read, stated = video.position, video.info.frames
    if read >= SHORT * stated:
        return None
    return (
        f"{video.locator}: {read} of the {stated} frames that the file states were decoded: it was "
        "trimmed, or is damaged"
    )
