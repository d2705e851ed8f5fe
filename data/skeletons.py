"""Skeletons: which joints a data set labels, how they mirror, and how the field scores them.

Joint order is the order of every array axis called K in this package. Names are unabbreviated and
person-centric: "left" is the person's own left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Skeleton:
    """A joint set and the conventions of the benchmark it comes from.

    Attributes:
        name: short name, as written into stores and reports.
        joints: joint names, in array order.
        flip_indices: for each joint, the index of the joint it becomes in a flipped image.
        limbs: pairs of joint indices to draw as lines.
        groups: what the benchmark's table calls its columns, and the joints averaged in each.
        normalizer: the two joints whose labeled distance is the unit of PCK where the labels bring
            no other; None: only what the labels bring is.
        threshold: PCK's tau: a joint is correct within `threshold` x the person's unit of length.
        metric: what the benchmark calls its score, without the threshold.
        curve_steps: the curve and its area take this many equal steps from 0 to `threshold`.
        unscored: joints that the benchmark leaves out of every mean.
        sigmas: OKS's tolerance of each joint, as COCO has it: a share of the square root of the
            person's area; empty: OKS is not defined.
    """

    name: str
    joints: tuple[str, ...]
    flip_indices: tuple[int, ...]
    limbs: tuple[tuple[int, int], ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    normalizer: tuple[int, int] | None
    threshold: float
    metric: str = "PCK"
    curve_steps: int = 20
    unscored: tuple[int, ...] = ()
    sigmas: tuple[float, ...] = ()

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    def side(self, joint: int) -> Literal["left", "right", "middle"]:
        """The side that a joint's name begins with, where it has a twin on the other side."""
        if self.flip_indices[joint] == joint:
            return "middle"
        return "left" if self.joints[joint].lower().startswith("l") else "right"


# Leeds Sports Pose, Johnson & Everingham, BMVC 2010. PCK@0.2 of the torso's diagonal (left shoulder
# to right hip), the person-centric protocol of the MPII team's evaluation of LSP.
LSP = Skeleton(
    name="lsp",
    joints=(
        "right ankle",
        "right knee",
        "right hip",
        "left hip",
        "left knee",
        "left ankle",
        "right wrist",
        "right elbow",
        "right shoulder",
        "left shoulder",
        "left elbow",
        "left wrist",
        "neck",
        "head top",
    ),
    flip_indices=(5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13),
    limbs=(
        (0, 1),
        (1, 2),
        (3, 4),
        (4, 5),
        (2, 3),
        (6, 7),
        (7, 8),
        (9, 10),
        (10, 11),
        (8, 12),
        (9, 12),
        (2, 8),
        (3, 9),
        (12, 13),
    ),
    groups=(
        ("head", (12, 13)),
        ("shoulder", (8, 9)),
        ("elbow", (7, 10)),
        ("wrist", (6, 11)),
        ("hip", (2, 3)),
        ("knee", (1, 4)),
        ("ankle", (0, 5)),
    ),
    normalizer=(9, 2),
    threshold=0.2,
)

# MPII Human Pose, Andriluka et al., CVPR 2014. PCKh@0.5, its table and what it leaves out, as in
# HRNet's lib/dataset/mpii.py: "head" is the head top alone, the upper neck counts in the means
# only. The unit is 0.6 x the head box's diagonal (`data/readers/mpii.py`); where no file has head
# boxes, as with HRNet's training people, the labeled head's length stands in for it.
MPII = Skeleton(
    name="mpii",
    joints=(
        "right ankle",
        "right knee",
        "right hip",
        "left hip",
        "left knee",
        "left ankle",
        "pelvis",
        "thorax",
        "upper neck",
        "head top",
        "right wrist",
        "right elbow",
        "right shoulder",
        "left shoulder",
        "left elbow",
        "left wrist",
    ),
    flip_indices=(5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10),
    limbs=(
        (0, 1),
        (1, 2),
        (2, 6),
        (3, 6),
        (3, 4),
        (4, 5),
        (6, 7),
        (7, 8),
        (8, 9),
        (10, 11),
        (11, 12),
        (12, 7),
        (13, 7),
        (13, 14),
        (14, 15),
    ),
    groups=(
        ("head", (9,)),
        ("shoulder", (12, 13)),
        ("elbow", (11, 14)),
        ("wrist", (10, 15)),
        ("hip", (2, 3)),
        ("knee", (1, 4)),
        ("ankle", (0, 5)),
    ),
    normalizer=(8, 9),
    threshold=0.5,
    metric="PCKh",
    curve_steps=50,
    unscored=(6, 7),
)

# COCO keypoints, Lin et al., ECCV 2014, in the order of its files. Sigmas: pycocotools,
# `Params.setKpParams`. PCK's unit is the longer side of the person's box, its threshold 0.2, as
# mmpose scores hands (`PCKAccuracy`, norm_item "bbox"); COCO itself has OKS-AP alone.
COCO = Skeleton(
    name="coco",
    joints=(
        "nose",
        "left eye",
        "right eye",
        "left ear",
        "right ear",
        "left shoulder",
        "right shoulder",
        "left elbow",
        "right elbow",
        "left wrist",
        "right wrist",
        "left hip",
        "right hip",
        "left knee",
        "right knee",
        "left ankle",
        "right ankle",
    ),
    flip_indices=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    limbs=(
        (15, 13),
        (13, 11),
        (16, 14),
        (14, 12),
        (11, 12),
        (5, 11),
        (6, 12),
        (5, 6),
        (5, 7),
        (6, 8),
        (7, 9),
        (8, 10),
        (1, 2),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
    ),
    groups=(
        ("nose", (0,)),
        ("eye", (1, 2)),
        ("ear", (3, 4)),
        ("shoulder", (5, 6)),
        ("elbow", (7, 8)),
        ("wrist", (9, 10)),
        ("hip", (11, 12)),
        ("knee", (13, 14)),
        ("ankle", (15, 16)),
    ),
    normalizer=None,
    threshold=0.2,
    metric="PCK(box)",
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)

KNOWN = {skeleton.name: skeleton for skeleton in (LSP, MPII, COCO)}
"""The skeletons that a setting can name."""
