"""Joints by name: which of a teacher's maps is which joint of a data set's skeleton.

Names are compared as `canonical` has them. Joints of one name are taken as equal, whatever data set
labeled them, although conventions differ by some per cent of a body's height (COCO's hips lie
further out than MPII's). Beyond that, LSP's "neck" and MPII's "upper neck" are one: both lie at the
top of the neck, and the field labels the one with the other (pytorch-pose, miscs/gen_lsp.m; MPII's
evaluation of LSP). COCO has no head top, neck, thorax or pelvis. Some label the last two with
the middle of the shoulders and of the hips; the middle of two heatmaps is no heatmap, so they stay
unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...data.skeletons import KNOWN, Skeleton

EQUAL = {"neck": "upper neck"}
"""What is taken as another name of a joint (see above)."""

SIDES = {"l": "left", "r": "right"}


def canonical(name: str) -> str:
    """A joint's name in lower case and single words: "L_Shoulder" is "left shoulder"."""
    words = re.sub(r"[\s_\-]+", " ", name.strip().lower()).split(" ")
    plain = " ".join([SIDES.get(words[0], words[0]), *words[1:]])
    return EQUAL.get(plain, plain)


def find_joints(wanted: Sequence[str], known: Sequence[str]) -> tuple[int | None, ...]:
    """For each wanted joint, its index among the known ones; None where there is none.

    Raises:
        ValueError: two of the known ones have one name.
    """
    names = [canonical(name) for name in known]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected joints of different names, found {', '.join(twice)} twice")
    return tuple(
        names.index(name) if (name := canonical(joint)) in names else None for joint in wanted
    )


def skeleton_of(count: int) -> Skeleton:
    """The one known skeleton of so many joints: files of weights do not say which they have.

    Raises:
        ValueError: there is none, or more than one.
    """
    fitting = [skeleton for skeleton in KNOWN.values() if skeleton.num_joints == count]
    if len(fitting) != 1:
        counts = ", ".join(f"{s.num_joints} ({s.name})" for s in KNOWN.values())
        raise ValueError(f"expected a network of {counts} joints, found {count}")
    return fitting[0]
