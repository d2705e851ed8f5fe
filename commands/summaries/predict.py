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
    """A video's line: how many poses and frames, how fast, and where."""
    return (
        f"predicted {pluralize(video.people, 'pose')} on {pluralize(video.frames, 'frame')}, "
        f"{video.frames / video.seconds:.1f} frames/s: written to "
        f"{' and '.join(map(str, reversed(video.paths)))}"
    )
