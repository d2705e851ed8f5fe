"""Label files as other tools wrote them: read whole, up to a limit, and taken apart with care.

Shape letters: N people.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import describe
from .files import parse_json, read_bytes

# COCO's person_keypoints_train2017.json, the largest in the field, has 238 MB.
MAX_JSON_BYTES = 1 << 29
# COCO train2017 has 262,465 annotated persons.
MAX_PEOPLE = 1_000_000


def read_json(path: Path, missing: str) -> Any:
    """A JSON file's content.

    Args:
        missing: what to say where there is no such file: what was expected, and what to do.

    Raises:
        ValueError: it is missing, too large, cut short or otherwise no JSON.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: {missing}")
    content = read_bytes(path, MAX_JSON_BYTES, "labels")
    with no_collection():
        return parse_json(path, content, "labels")


@contextmanager
def no_collection() -> Iterator[None]:
    """Millions of small objects that all stay: to look for cycles among them takes longer than to
    make them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def people_list(path: Path, people: Any) -> list[dict[str, Any]]:
    """A list of people, one object each.

    Raises:
        ValueError: it is something else, empty, or longer than `MAX_PEOPLE`.
    """
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise ValueError(f"{path}: expected a list of people")
    if not 1 <= len(people) <= MAX_PEOPLE:
        raise ValueError(f"{path}: expected 1 to {MAX_PEOPLE} people, found {len(people)}")
    return people


def column(
    path: Path,
    people: Sequence[dict[str, Any]],
    key: str,
    shape: tuple[int, ...],
    names: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """One field of all people, float64 (N, *shape).

    Args:
        names: what to call them in a message; none given: "person" and their number, from 1.

    Raises:
        ValueError: naming the first person who lacks it or has it in another shape.
    """
    try:  # all at once is four times as fast as one by one, which says who is to blame
        found = np.array([person[key] for person in people], np.float64)
        if found.shape == (len(people), *shape) and np.isfinite(found).all():
            return found
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    found = np.empty((len(people), *shape))
    for index, person in enumerate(people):
        try:
            value = np.array(person[key], np.float64)
        except (KeyError, TypeError, ValueError, OverflowError):
            value = np.array(np.nan)
        if value.shape != shape or not np.isfinite(value).all():
            name = f"person {index + 1}" if names is None else names[index]
            raise ValueError(
                f"{path}: expected {key!r} of {describe(shape)} in finite numbers, found something "
                f"else at {name}"
            )
        found[index] = value
    return found


def numbered_ids(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
    """Image and the person's number in it: people added in other images change no one's id."""
    seen: Counter[str] = Counter()
    ids = []
    for name in names:
        ids.append(f"{prefix}/{name}/{seen[name]}")
        seen[name] += 1
    return tuple(ids)


def shared(names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Each image once, in the order of its first person, and int64 (N,): everyone's image."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return list(places), np.array([places[name] for name in names], dtype=np.int64)
