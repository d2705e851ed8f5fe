"""The text that `fpd predict` prints."""

from __future__ import annotations

from ...pipeline.runtime.text import pluralize
from ...stages.predict import PredictRequest, PredictResult


def describe(result: PredictResult, request: PredictRequest) -> str:
    """How many people were predicted, and which images and boxes had no counterpart."""
    people = pluralize(result.people, "person", "people")
    lines = [f"predicted {people} on {pluralize(result.images, 'image')}: written to {request.out}"]
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
