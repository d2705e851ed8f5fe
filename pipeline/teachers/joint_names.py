"""Joints of teachers, by name (`data.joint_names`), and by their number where names are missing.

COCO has no head top, neck, thorax or pelvis. Some label the last two with the midpoints of the
shoulders and of the hips; heatmaps have no such midpoint, so these joints are not covered.
"""

from __future__ import annotations

from ...data.joint_names import canonical, find_joints
from ...data.skeletons import SKELETONS, Skeleton

__all__ = ["canonical", "find_joints", "skeleton_of"]


def skeleton_of(count: int) -> Skeleton:
    """The known skeleton with a number of joints, for weights that come without joint names.

    Raises:
        ValueError: there is none, or more than one.
    """
    matching = [skeleton for skeleton in SKELETONS.values() if skeleton.num_joints == count]
    if len(matching) != 1:
        counts = ", ".join(f"{s.num_joints} ({s.name})" for s in SKELETONS.values())
        raise ValueError(f"expected a network with {counts} joints, found {count}")
    return matching[0]
