"""The figure of a cached view: names are text in it, whatever they contain."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fpd.data.skeletons import Skeleton
from fpd.pipeline.caching.figure import CachedFigure, draw

HOSTILE = (r"$\frac{$", "$x$", "_\x1b[2J\x00\n", "\ud800", "a name that is far too long " * 9)


def hostile_skeleton() -> Skeleton:
    return Skeleton(
        name="hostile",
        joints=HOSTILE,
        flip_indices=(1, 0, 2, 3, 4),
        limbs=((0, 1),),
        groups=(),
        normalizer=None,
        threshold=0.2,
    )


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_names_are_no_formulas_and_no_controls(tmp_path: Path, suffix: str) -> None:
    joints = len(HOSTILE)
    random = np.random.default_rng(0)
    view = CachedFigure(
        title="\n".join(HOSTILE[:3]),
        crop_SS3=random.integers(0, 255, (32, 32, 3), np.uint8),
        labels_K2=random.uniform(0, 31, (joints, 2)),
        decoded_K2=random.uniform(0, 31, (joints, 2)),
        skeleton=hostile_skeleton(),
        cached_KHW=random.random((joints, 8, 8)).astype(np.float32),
        peaks_K=np.ones(joints),
        max_error=0.1,
    )
    path = tmp_path / f"view{suffix}"
    draw(view, path)
    if suffix == ".png":
        assert cv2.imread(str(path)).std() > 10
    assert list(tmp_path.iterdir()) == [path]
