"""The ground truth that prediction files are scored against: the label files of MPII and LSP.

Shape letters: N samples that are scored, K joints, M samples in a file of predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.io.arrays import describe_arrays, list_arrays
from ...data.readers import lsp, mpii
from ...data.samples import normalizer_lengths
from ...data.skeletons import LSP, MPII, Skeleton


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The samples to score.

    Attributes:
        description: which samples of the file these are, for the report.
        joints_NK2: float64 (x, y) in pixels, as in the file; NaN where a joint is missing.
        normalizer_N: each sample's unit of length, pixels; 0 if it has none.
        first_pixel: the file's coordinate of the center of the top-left pixel.
        prediction_rows: for each accepted M, the indices of the N scored samples among the M
            predictions.
    """

    skeleton: Skeleton
    description: str
    joints_NK2: NDArray[np.float64]
    normalizer_N: NDArray[np.float64]
    first_pixel: int
    prediction_rows: dict[int, NDArray[np.int64]]


def read_ground_truth(path: Path) -> GroundTruth:
    """Read MPII's `gt_valid.mat` or LSP's `joints.mat`, recognized by the arrays they contain.

    Raises:
        ValueError: the file is neither, or damaged.
    """
    stored = list_arrays(path)
    if path.suffix.lower() == ".mat":
        if set(mpii.GROUND_TRUTH_SHAPES) <= set(stored):
            return _read_mpii(path)
        if "joints" in stored:
            return _read_lsp(path)
    raise ValueError(
        f"{path}: expected MPII's gt_valid.mat ({', '.join(mpii.GROUND_TRUTH_SHAPES)}) or LSP's "
        f"joints.mat (joints), found {describe_arrays(stored)}"
    )


def _read_mpii(path: Path) -> GroundTruth:
    joints_NK2, head_N = mpii.read_ground_truth(path)
    count = len(joints_NK2)
    return GroundTruth(
        skeleton=MPII,
        description=f"all {count} of MPII's file",
        joints_NK2=joints_NK2,
        normalizer_N=head_N,
        first_pixel=1,
        prediction_rows={count: np.arange(count)},
    )


def _read_lsp(path: Path) -> GroundTruth:
    """The test images that are not also training images; all samples if the file is not LSP's own.

    LSP as published has 2000 images; see `data.readers.lsp`.
    """
    joints_NK2 = lsp.read_joints(path, rows="coordinates").transpose(2, 1, 0)[..., :2]
    count = len(joints_NK2)
    description, scored = f"all {count} of the file", np.arange(count)
    prediction_rows = {count: scored}
    if count == lsp.IMAGES:
        omitted = ", ".join(map(str, lsp.TEST_IMAGES_SEEN_IN_TRAINING))
        description = (
            f"LSP's images {lsp.TRAIN_IMAGES + 1} to {lsp.IMAGES} without {omitted}, which are "
            "training images too"
        )
        scored = lsp.image_numbers("test", lsp.IMAGES) - 1
        prediction_rows = {
            lsp.IMAGES: scored,
            lsp.IMAGES - lsp.TRAIN_IMAGES: scored - lsp.TRAIN_IMAGES,
            len(scored): np.arange(len(scored)),
        }
    scored_NK2 = joints_NK2[scored]
    return GroundTruth(
        skeleton=LSP,
        description=description,
        joints_NK2=scored_NK2,
        normalizer_N=normalizer_lengths(scored_NK2, LSP),
        first_pixel=1,
        prediction_rows=prediction_rows,
    )
