"""Joints by name: which of a teacher's heatmaps belongs to which joint of a skeleton.

Names are compared in the form that `canonical` returns. Joints with the same name are treated as
equal, although data sets' conventions differ by a few percent of a person's height (COCO's hips are
further apart than MPII's). In addition, LSP's "neck" is MPII's "upper neck": both are at the top of
the neck, and using one for the other is common (pytorch-pose, miscs/gen_lsp.m; MPII's evaluation
of LSP). COCO has no head top, neck, thorax or pelvis. Some label the last two with the midpoints
of the shoulders and of the hips; heatmaps have no such midpoint, so these joints are not covered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...data.skeletons import SKELETONS, Skeleton

EQUAL = {"neck": "upper neck"}
"""Synonyms of joint names (see the module's docstring)."""

SIDES = {"l": "left", "r": "right"}


def canonical(name: str) -> str:
    """A joint's name in lower case, words separated by spaces: "L_Shoulder" is "left shoulder"."""
    words = re.sub(r"[\s_\-]+", " ", name.strip().lower()).split(" ")
    plain = " ".join([SIDES.get(words[0], words[0]), *words[1:]])
    return EQUAL.get(plain, plain)


def find_joints(names: Sequence[str], available: Sequence[str]) -> tuple[int | None, ...]:
    """The index of each joint among the available joints, or None if it is not available.

    Raises:
        ValueError: two of the available joints have the same name.
    """
    indices: dict[str, int] = {}
    for index, name in enumerate(map(canonical, available)):
        if name in indices:
            raise ValueError(f"expected joints with different names, found {name} twice")
        indices[name] = index
    return tuple(indices.get(canonical(name)) for name in names)


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
