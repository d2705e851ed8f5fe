"""The text that `fpd predict` prints."""

from __future__ import annotations

from ...pipeline.prediction.videos import VideoResult
from ...pipeline.runtime.text import pluralize
from ...stages.predict import PredictRequest, PredictResult


def describe(result: PredictResult, request: PredictRequest) -> str:
    """How many people were predicted, and which images and boxes had no counterpart."""
    lines = []
    if result.images or result.images_without_person or not result.videos:
        people = pluralize(result.people, "person", "people")
        images = pluralize(result.images, "image")
        lines.append(f"predicted {people} on {images}: written to {request.out}")
    lines += [_video(video) for video in result.videos]
    if result.images_without_person:
        images = pluralize(result.images_without_person, "image")
        lines.append(f"no person was found on {images} (see --min-score)")
    if result.images_without_box or result.boxes_without_image:
        lines.append(
            f"skipped: {pluralize(result.images_without_box, 'image')} without a person's box in "
            f"{request.boxes}, {pluralize(result.boxes_without_image, 'box', 'boxes')} of images "
            "that were not given"
        )
    if result.boxes_left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in result.boxes_left_out.items())
        lines.append(f"boxes left out: {counts} (see --category, --min-score)")
    return "\n".join(lines)


def _video(video: VideoResult) -> str:
    """A video's line: how many poses and frames, how fast, and where; a note on a second one."""
    line = (
        f"predicted {pluralize(video.people, 'pose')} on {pluralize(video.frames, 'frame')}, "
        f"{video.frames / video.seconds:.1f} frames/s: written to "
        f"{' and '.join(map(str, reversed(video.paths)))}"
    )
    return line if video.note is None else f"{line}\nnote: {video.note}"


def describe_failures(result: PredictResult, request: PredictRequest) -> str | None:
    """How many inputs could not be used, and how many videos ended early; None: all is well."""
    unused, ended = len(result.problems), sum(bool(video.problems) for video in result.videos)
    parts = []
    if unused:
        inputs = "input or box" if unused == 1 else "inputs or boxes"
        parts.append(f"{unused} {inputs}, named above, could not be used")
    if ended:
        parts.append(f"{pluralize(ended, 'video')}, named above, could not be completed")
    return f"{'; '.join(parts)}; {request.out} has the rest" if parts else None
