"""Skeletons: a data set's joints, how a flip permutes them, and how its benchmark scores them.

Every array axis called K in this package has the order of `Skeleton.joints`. Joint names are
unabbreviated and person-centric: "left" is the person's own left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .joint_names import find_joints, side_in_pair


@dataclass(frozen=True)
class Skeleton:
    """A joint set and the conventions of the benchmark it comes from.

    Attributes:
        name: short name, as written into stores and reports.
        joints: joint names, in array order.
        flip_indices: for each joint, the index of the joint it becomes in a flipped image.
        limbs: pairs of joint indices to draw as lines.
        groups: the columns of the benchmark's table: name, and the joints averaged in it.
        normalizer: the two joints whose distance is PCK's unit of length where the labels do not
            provide one; None: the labels always do.
        threshold: PCK's tau: a joint is correct within `threshold` x the person's unit of length.
        metric: the benchmark's name of its score, without the threshold.
        curve_steps: number of equal steps from 0 to `threshold` of the PCK curve and its area.
        unscored: joints that the benchmark excludes from every mean.
        sigmas: OKS's tolerance of each joint as in COCO, a fraction of the square root of the
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
        """The joint's side, by its name; "middle" for a joint that a flip maps to itself.

        Of two joints whose names state no side, the first counts as left.
        """
        counterpart = self.flip_indices[joint]
        if counterpart == joint:
            return "middle"
        side = side_in_pair(self.joints[joint], self.joints[counterpart])
        return side or ("left" if joint < counterpart else "right")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The joints that a flip exchanges, the left one first."""
        return tuple(
            (self.joints[joint], self.joints[counterpart])
            for joint, counterpart in enumerate(self.flip_indices)
            if counterpart != joint and self.side(joint) == "left"
        )

    def describe_pairs(self) -> str:
        """The joints that a flip exchanges, and those that it does not, as text."""
        pairs = ", ".join(f"{left}/{right}" for left, right in self.pairs)
        alone = ", ".join(
            name for joint, name in enumerate(self.joints) if self.flip_indices[joint] == joint
        )
        return f"a flip exchanges {pairs or 'no joints'}; it keeps {alone or 'none'}"

    def reordered(self, order: Sequence[int]) -> Skeleton:
        """The same skeleton with its joints in another order.

        Args:
            order: for each joint of the result, its index here.
        """
        place = {joint: index for index, joint in enumerate(order)}
        return replace(
            self,
            joints=tuple(self.joints[joint] for joint in order),
            flip_indices=tuple(place[self.flip_indices[joint]] for joint in order),
            limbs=tuple((place[start], place[end]) for start, end in self.limbs),
            groups=tuple((name, tuple(map(place.__getitem__, k))) for name, k in self.groups),
            normalizer=self.normalizer and (place[self.normalizer[0]], place[self.normalizer[1]]),
            unscored=tuple(map(place.__getitem__, self.unscored)),
            sigmas=tuple(self.sigmas[joint] for joint in order) if self.sigmas else (),
        )


def check_pairs(skeleton: Skeleton, other: Skeleton, name: str, other_name: str) -> None:
    """Check that a flip exchanges the same joints of two skeletons with joints in one order.

    Args:
        name, other_name: what has the skeletons, for messages.

    Raises:
        ValueError: naming the joints whose counterparts differ.
    """
    pairs = zip(skeleton.flip_indices, other.flip_indices, strict=True)
    different = [skeleton.joints[k] for k, (one, two) in enumerate(pairs) if one != two]
    if different:
        raise ValueError(
            f"expected the same pairs of left and right in {name} and in {other_name}, found other "
            f"counterparts of {', '.join(different)[:500]}: state the pairs of both with "
            '--set \'data.coco.flip=[["left NAME","right NAME"]]\', or train with the pairs of '
            "the data set"
        )


# Leeds Sports Pose, Johnson & Everingham, BMVC 2010. PCK@0.2 of the torso's diagonal (left shoulder
# to right hip): the person-centric protocol of the MPII team's evaluation of LSP.
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

# MPII Human Pose, Andriluka et al., CVPR 2014. PCKh@0.5, its table and the excluded joints are
# those of HRNet's lib/dataset/mpii.py: "head" is the head top alone, and the upper neck counts in
# the means only. The unit is 0.6 x the head box's diagonal (`data/readers/mpii.py`); without head
# boxes, as for HRNet's training samples, it is the distance from upper neck to head top.
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

# pycocotools, `Params.setKpParams`, in the order of `COCO.joints`.
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
    0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
)  # fmt: skip

# COCO keypoints, Lin et al., ECCV 2014, in the order of its files. COCO itself defines OKS-AP only.
# PCK's unit is the longer side of the person's box and its threshold 0.2, as mmpose scores hands
# (`PCKAccuracy`, norm_item "bbox").
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
    sigmas=COCO_SIGMAS,
)

SKELETONS = {skeleton.name: skeleton for skeleton in (LSP, MPII, COCO)}
"""The built-in skeletons, by the name that settings use."""


def known_limbs(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The limbs that the built-in skeletons have between joints known by name, as their indices.

    Raises:
        ValueError: two of the joints have the same name.
    """
    limbs: dict[frozenset[int], tuple[int, int]] = {}
    for skeleton in SKELETONS.values():
        index_of = find_joints(skeleton.joints, joints)
        for start, end in ((index_of[a], index_of[b]) for a, b in skeleton.limbs):
            if start is not None and end is not None:
                limbs.setdefault(frozenset((start, end)), (start, end))
    return tuple(limbs.values())
