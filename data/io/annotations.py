"""Label files of other tools: JSON up to a size limit, every field checked.

Shape letters: N records.
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

from .arrays import describe_shape
from .files import parse_json, read_bytes

# COCO's person_keypoints_train2017.json, the largest of the known label files, has 238 MB.
MAX_JSON_BYTES = 1 << 29
# COCO train2017 has 262,465 annotated persons.
MAX_SAMPLES = 1_000_000


def read_json(path: Path, missing: str) -> Any:
    """The content of a JSON file.

    Args:
        missing: the message's end if there is no such file: what was expected, and what to do.

    Raises:
        ValueError: the file is missing, too large, cut short or otherwise not JSON.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: {missing}")
    content = read_bytes(path, MAX_JSON_BYTES, "labels")
    with gc_disabled():
        return parse_json(path, content, "labels")


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable garbage collection while creating millions of small objects that all stay alive.

    Searching them for cycles takes longer than creating them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def object_list(path: Path, value: Any) -> list[dict[str, Any]]:
    """Check that a JSON value is a list of objects, and return it.

    Raises:
        ValueError: it is something else, empty, or longer than `MAX_SAMPLES`.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{path}: expected a list of objects")
    if not 1 <= len(value) <= MAX_SAMPLES:
        raise ValueError(f"{path}: expected 1 to {MAX_SAMPLES} objects, found {len(value)}")
    return value


def column(
    path: Path,
    records: Sequence[dict[str, Any]],
    key: str,
    shape: tuple[int, ...],
    names: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """One field of all records, float64 (N, *shape).

    Args:
        names: the records' names in messages; None: "sample" and the record's number, from 1.

    Raises:
        ValueError: a record lacks the field or has it in another shape; names the first such one.
    """
    try:  # all at once: four times as fast as one by one, which is only needed to name the record
        values = np.array([record[key] for record in records], np.float64)
        if values.shape == (len(records), *shape) and np.isfinite(values).all():
            return values
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    values = np.empty((len(records), *shape))
    for index, record in enumerate(records):
        try:
            value = np.array(record[key], np.float64)
        except (KeyError, TypeError, ValueError, OverflowError):
            value = np.array(np.nan)
        if value.shape != shape or not np.isfinite(value).all():
            name = f"sample {index + 1}" if names is None else names[index]
            raise ValueError(
                f"{path}: expected {key!r} of {describe_shape(shape)} in finite numbers, found "
                f"something else at {name}"
            )
        values[index] = value
    return values


def numbered_ids(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
    """Sample ids "prefix/image/number", the number counting the samples of one image.

    Samples added in other images leave the ids as they are.
    """
    counts: Counter[str] = Counter()
    ids = []
    for name in names:
        ids.append(f"{prefix}/{name}/{counts[name]}")
        counts[name] += 1
    return tuple(ids)


def unique_images(names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct image names in order of appearance, and int64 (N,) indices into them."""
    index_of = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return list(index_of), np.array([index_of[name] for name in names], dtype=np.int64)
