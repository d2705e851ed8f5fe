"""Joint names: the side that a name states, a joint's counterpart, and names that are the same.

Joints are matched by name everywhere: left with right, a training file with a test file, a model
and a teacher with a data set. All ways in which labeling tools write sides are read:

    left_ear  LeftEar  leftEar  leftear  ear.left  EarLeft  earleft  l_ear  L_Ear  LEar  eyeL  ear.l
    L1   lear/rear, fl/fr: a letter that is part of a word, where the other name exists

A name that states a side by "left", "right", or by L or R as a word of its own always has a side;
the other forms have one only where the counterpart exists.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

Side = Literal["left", "right"]

SIDES = re.compile("left|right", re.IGNORECASE)
NOT_SIDES = frozenset({"cleft", "upright", "bright"})
"""Words that contain "left" or "right" and state no side."""

LETTERS: dict[str, Side] = {"l": "left", "r": "right"}

OTHER_WORDS = (
    ("links", "rechts"),
    ("gauche", "droite"),
    ("gauche", "droit"),
    ("izquierda", "derecha"),
    ("izquierdo", "derecho"),
    ("esquerda", "direita"),
    ("esquerdo", "direito"),
    ("sinistra", "destra"),
    ("sinistro", "destro"),
    ("sinister", "dexter"),
    ("左", "右"),
)
"""Left and right in other languages, read where the counterpart exists."""

EQUAL = {"neck": "upper neck"}
"""LSP's "neck" is MPII's "upper neck": both are at the top of the neck, and using one for the other
is common (pytorch-pose, miscs/gen_lsp.m; MPII's evaluation of LSP)."""


class Marker(NamedTuple):
    """A part of a name, `name[start:end]`, that states a side."""

    start: int
    end: int
    side: Side
    form: str  # only markers of one form are counterparts: "left" of "right", "l" of "r"


class Pairs(NamedTuple):
    """The counterparts among some joints.

    Attributes:
        flip_indices: for each joint, the index of its counterpart, or its own.
        unpaired: the joints that state a side, and have no counterpart or several.
    """

    flip_indices: tuple[int, ...]
    unpaired: tuple[str, ...]


def pair_sides(joints: Sequence[str]) -> Pairs:
    """Pair left with right joints by their names."""
    found = _partners(joints, _sure_readings)
    weak = _partners(joints, _possible_readings)
    unpaired = []
    flip_indices = list(range(len(joints)))
    for index, name in enumerate(joints):
        is_sure = bool(_sure_markers(name))
        partners = found[index] if is_sure else weak[index]
        other = next(iter(partners)) if len(partners) == 1 else None
        if other is not None and (found if is_sure else weak)[other] == {index}:
            flip_indices[index] = other
        elif is_sure or partners:
            unpaired.append(name)
    return Pairs(tuple(flip_indices), tuple(unpaired))


def side_in_pair(name: str, counterpart: str) -> Side | None:
    """The side that a name states, given its counterpart's; None: neither states one."""
    marker = _marker_in_pair(name, counterpart)
    return None if marker is None else marker.side


def without_side(name: str, counterpart: str) -> str:
    """A name without its side: "ear" of "left ear"; the name itself if it states none."""
    marker = _marker_in_pair(name, counterpart)
    if marker is None:
        return name
    rest = re.sub(r"^[\W_]+|[\W_]+$", "", name[: marker.start] + name[marker.end :])
    return " ".join(rest.split()) or name


def canonical(name: str) -> str:
    """A joint's name in lower case, its words separated by spaces, its side first.

    "L_Shoulder" and "shoulderLeft" are "left shoulder".
    """
    return _canonical(name, _sure_markers(name))


def find_joints(names: Sequence[str], available: Sequence[str]) -> tuple[int | None, ...]:
    """The index of each joint among the available joints, or None if it is not available.

    Equal names match first, then names that are equal in the form of `canonical`. Joints with the
    same name are treated as equal, although data sets' conventions differ by a few percent of a
    person's height (COCO's hips are further apart than MPII's).

    Raises:
        ValueError: two of the available joints have the same name.
    """
    exact = {name: index for index, name in enumerate(available)}
    if len(exact) == len(available) and set(names) <= set(exact):
        return tuple(exact[name] for name in names)
    indices: dict[str, int] = {}
    for index, key in enumerate(_keys(available)):
        if key in indices:
            raise ValueError(
                f"expected joints with different names, found {canonical(available[index])} twice"
            )
        indices[key] = index
    return tuple(indices.get(key) for key in _keys(names))


def joint_order(
    names: Sequence[str], available: Sequence[str], wanted: str, found: str
) -> tuple[int, ...]:
    """The index of each of `names` among `available`, which must be the same joints in any order.

    Args:
        wanted, found: what has the names, and what has those available, for messages.

    Raises:
        ValueError: naming the joints that only one of them has.
    """
    try:
        indices = find_joints(names, available)
        reverse = find_joints(available, names)
    except ValueError as error:
        raise ValueError(f"{wanted} and {found}: {error}") from None
    missing = [name for name, index in zip(names, indices, strict=True) if index is None]
    extra = [name for name, index in zip(available, reverse, strict=True) if index is None]
    order = tuple(index for index in indices if index is not None)
    if missing or extra or len(set(order)) != len(available):
        only = [
            f"{owner} alone has {', '.join(joints)[:300]}"
            for owner, joints in ((wanted, missing), (found, extra))
            if joints
        ]
        raise ValueError(
            f"expected the same joints, in any order, in {wanted} and in {found}: "
            f"{'; '.join(only) or 'their names do not match one to one'}"
        )
    return order


def _keys(names: Sequence[str]) -> list[str]:
    """Names in a form that is equal for all spellings of a joint; sides need the whole list."""
    flip_indices = pair_sides(names).flip_indices
    keys = []
    for index, (name, twin) in enumerate(zip(names, flip_indices, strict=True)):
        markers = _sure_markers(name)
        if not markers and twin != index:
            marker = _marker_in_pair(name, names[twin])
            markers = [] if marker is None else [marker]
        # "upperarm" is "upper arm", but "toe 1 1" is not "toe 11".
        keys.append(re.sub(r"(?<!\d) | (?!\d)", "", _canonical(name, markers)))
    return keys


def _canonical(name: str, markers: Sequence[Marker]) -> str:
    text, rest = "", 0
    for marker in markers:
        text += name[rest : marker.start] + " "
        rest = marker.end
    text += name[rest:]
    words = [word.casefold() for part in _parts(text) for word in part]
    plain = " ".join([*(marker.side for marker in markers), *words])
    return EQUAL.get(plain, plain) or name.casefold()


def _parts(name: str) -> Iterator[list[str]]:
    """The words and numbers of a name, one run of letters or digits at a time."""
    for run in re.finditer(r"[^\W\d_]+|\d+", unicodedata.normalize("NFKC", name)):
        yield [run.group()[start:end] for start, end in _camel_words(run.group())]


def _camel_words(run: str) -> list[tuple[int, int]]:
    """Where the words of a run of letters begin and end: "LEye" is "L" and "Eye"."""
    cuts = [
        i
        for i in range(1, len(run))
        if run[i].isupper()
        and (not run[i - 1].isupper() or (i + 1 < len(run) and run[i + 1].islower()))
    ]
    return list(zip([0, *cuts], [*cuts, len(run)], strict=True))


def _words(name: str) -> Iterator[tuple[int, int]]:
    """Where the words of a name begin and end."""
    for run in re.finditer(r"[^\W\d_]+", name):
        for start, end in _camel_words(run.group()):
            yield run.start() + start, run.start() + end


@lru_cache(maxsize=4096)
def _sure_markers(name: str) -> list[Marker]:
    """The words "left", "right", "l" and "r" of a name, in order."""
    words = list(_words(name))
    markers = []
    for match in SIDES.finditer(name):
        around = [name[a:b].lower() for a, b in words if a <= match.start() < b]
        if not NOT_SIDES & set(around):
            side: Side = "left" if match.group().lower() == "left" else "right"
            markers.append(Marker(match.start(), match.end(), side, "word"))
    for start, end in words:
        letter = LETTERS.get(name[start:end].lower())
        if letter is not None and not any(m.start <= start < m.end for m in markers):
            markers.append(Marker(start, end, letter, "letter"))
    return sorted(markers)


@lru_cache(maxsize=4096)
def _possible_markers(name: str) -> list[Marker]:
    """Parts of a name without a sure marker that state a side if the counterpart exists."""
    markers = set()
    for start, end in _words(name):
        for at in (start, end - 1):
            side = LETTERS.get(name[at].lower())
            if side is not None and end - start > 1:
                markers.add(Marker(at, at + 1, side, "letter"))
    lower = name.lower()
    if len(lower) == len(name):
        for number, words in enumerate(OTHER_WORDS):
            for word, side in zip(words, LETTERS.values(), strict=True):
                at = lower.find(word)
                if at >= 0:
                    markers.add(Marker(at, at + len(word), side, f"word {number}"))
    return sorted(markers)


def _marker_in_pair(name: str, counterpart: str) -> Marker | None:
    """The (first) marker of a name, of those that make the counterpart its counterpart."""
    sure = _sure_markers(name)
    if sure:
        return sure[0]
    if _sure_markers(counterpart):
        return None
    for mine in _possible_markers(name):
        for other in _possible_markers(counterpart):
            same_form = mine.form == other.form and mine.side != other.side
            if same_form and _key(name, [mine], _plain) == _key(counterpart, [other], _plain):
                return mine
    return None


Readings = list[tuple[Marker, ...]]


def _sure_readings(name: str) -> Readings:
    """The sets of markers to exchange: all of them ("left eye's left corner"), or the first."""
    markers = tuple(_sure_markers(name))
    return [] if not markers else [markers] if len(markers) == 1 else [markers, markers[:1]]


def _possible_readings(name: str) -> Readings:
    return [] if _sure_markers(name) else [(marker,) for marker in _possible_markers(name)]


def _partners(joints: Sequence[str], readings: Callable[[str], Readings]) -> list[set[int]]:
    """For each joint, the possible counterparts: by the same spelling if it has one by that."""
    partners: list[set[int]] = [set() for _ in joints]
    for spelling in (str, _plain, _letters):
        names: dict[tuple[str, tuple[Side, ...]], set[int]] = defaultdict(set)
        for index, name in enumerate(joints):
            for markers in readings(name):
                names[_key(name, markers, spelling), _sides(markers)].add(index)
        for index, name in enumerate(joints):
            if partners[index]:
                continue
            for markers in readings(name):
                opposite = tuple(OPPOSITE[side] for side in _sides(markers))
                others = names[_key(name, markers, spelling), opposite] - {index}
                partners[index] |= others
                if others and readings is _sure_readings:
                    break
    return partners


OPPOSITE: dict[Side, Side] = {"left": "right", "right": "left"}


def _sides(markers: Sequence[Marker]) -> tuple[Side, ...]:
    return tuple(marker.side for marker in markers)


def _key(name: str, markers: Sequence[Marker], spelling: Callable[[str], str]) -> str:
    """A name with its markers replaced by their forms."""
    text, rest = "", 0
    for marker in markers:
        text += spelling(name[rest : marker.start]) + f"\0{marker.form}\0"
        rest = marker.end
    return text + spelling(name[rest:])


def _plain(text: str) -> str:
    """A part of a name in lower case, its separators written as spaces."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text)).casefold()


def _letters(text: str) -> str:
    """A part of a name in lower case, without separators."""
    return _plain(text).replace(" ", "")
