"""Label files of other tools: JSON up to a size limit, every field checked.

Shape letters: N records.
"""

from __future__ import annotations

import gc
import math
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
# Longer text is not taken for a number: no tool numbers more records than 64 bits can.
MAX_DIGITS = 18


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


def found(value: Any) -> str:
    """A value of unknown origin as text for messages: short, on one line, null as "nothing"."""
    try:
        return "nothing" if value is None else f"{value!r:.80}"
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a very large number"


def _kind(value: Any) -> str:
    """As `found`; of a list or an object, which may be large, what it is."""
    if isinstance(value, dict):
        return f"an object with {', '.join(list(value)[:3]) or 'nothing':.80}"
    return "a list" if isinstance(value, list) else found(value)


def as_id(value: Any) -> int | str:
    """An id: a whole number or text; 7.0 and "7" are 7, as tools write numbers in all three ways.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str) and value.strip():
        text = value.strip()
        is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
        return int(text) if is_number and str(int(text)) == text else text
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected a whole number or text, found {found(value)}")


def as_flag(value: Any) -> bool:
    """A flag: 0 or 1, false or true, also as text; False if it is missing.

    Raises:
        ValueError: it is something else.
    """
    text = str(value).strip().lower()
    if value is None or text in ("", "0", "0.0", "false"):
        return False
    if text in ("1", "1.0", "true"):
        return True
    raise ValueError(f"expected 0 or 1, found {found(value)}")


def as_number(value: Any) -> float:
    """A number, also as text; NaN if it is missing.

    Raises:
        ValueError: it is something else.
    """
    if value is None or value == "":
        return math.nan
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"expected a number, found {found(value)}")


def text_column(path: Path, records: Sequence[dict[str, Any]], key: str) -> list[str]:
    """One field of all records, text that is not empty.

    Raises:
        ValueError: a record has something else; names the first such one.
    """
    for number, record in enumerate(records, 1):
        value = record.get(key)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{path}: sample {number}: {key}: expected text, found {found(value)}")
    return [record[key] for record in records]


def object_list(path: Path, value: Any) -> list[dict[str, Any]]:
    """Check that a JSON value is a list of objects, and return it.

    Raises:
        ValueError: it is something else, empty, or longer than `MAX_SAMPLES`.
    """
    if not isinstance(value, list):
        raise ValueError(f"{path}: expected a list of objects, found {_kind(value)}")
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict):
            raise ValueError(
                f"{path}: expected a list of objects, found {_kind(item)} at number {number}"
            )
    if not 1 <= len(value) <= MAX_SAMPLES:
        raise ValueError(f"{path}: expected 1 to {MAX_SAMPLES} objects, found {len(value)}")
    return value


def column(
    path: Path,
    records: Sequence[dict[str, Any]],
    key: str,
    shape: tuple[int, ...],
    names: Sequence[str] | None = None,
    *,
    allow_nan: bool = False,
) -> NDArray[np.float64]:
    """One field of all records, float64 (N, *shape).

    Args:
        names: the records' names in messages; None: "sample" and the record's number, from 1.
        allow_nan: values may be NaN or null.

    Raises:
        ValueError: a record lacks the field or has it in another shape; names the first such one.
    """
    is_valid = _not_infinite if allow_nan else np.isfinite
    try:  # all at once: four times as fast as one by one, which is only needed to name the record
        values = np.array([record[key] for record in records], np.float64)
        if values.shape == (len(records), *shape) and is_valid(values).all():
            return values
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    values = np.empty((len(records), *shape))
    for index, record in enumerate(records):
        try:
            value = np.array(record[key], np.float64)
        except (KeyError, TypeError, ValueError, OverflowError):
            value = np.array(np.inf)
        if value.shape != shape or not is_valid(value).all():
            name = f"sample {index + 1}" if names is None else names[index]
            expected = f"of {describe_shape(shape)} in finite numbers" if shape else "as a number"
            raise ValueError(
                f"{path}: expected {key!r} {expected}, found {_found_at(record, key, shape)} at "
                f"{name}"
            )
        values[index] = value
    return values


def _found_at(record: dict[str, Any], key: str, shape: tuple[int, ...]) -> str:
    """The value of a field that `column` refuses, as text: its shape, if that is wrong."""
    value = record.get(key)
    if not isinstance(value, list):
        return _kind(value)
    try:
        found_shape = np.shape(value)
    except ValueError:
        return "lists of different lengths"
    return found(value) if found_shape == shape else f"{describe_shape(found_shape)} values"


def _not_infinite(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(~np.isinf(values))


def zero_or_one(
    path: Path, records: Sequence[dict[str, Any]], key: str, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """As `column`, for a field of zeros and ones (or false and true); bool (N, *shape).

    Raises:
        ValueError: a record has other values; names the first such one.
    """
    values = column(path, records, key, shape)
    bad_N = ~np.isin(values, (0, 1)).reshape(len(values), -1).all(-1)
    if bad_N.any():
        first = int(np.flatnonzero(bad_N)[0])
        raise ValueError(
            f"{path}: sample {first + 1}: {key}: expected 0 or 1, found "
            f"{found(records[first][key])}"
        )
    return np.asarray(values == 1)


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
