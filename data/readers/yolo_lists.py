"""The images of a folder of poses, by the lists in its data.yaml.

Names are relative to `data.root`, and none leads out of it: `path` is often a folder of
another machine, and the lists' names may begin with a ../ that is not meant.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from ..io.annotations import MAX_SAMPLES, found
from ..io.files import read_bytes
from ..io.images import check_names
from .folder import image_names
from .yolo_description import Description

MAX_LIST_BYTES = 1 << 26
"""Limit of a list of images: about a million names."""

MAX_PART_BYTES, MAX_NAME_BYTES = 250, 3500
"""Of a file's or folder's name, and of a path below the root: Linux has 255 and 4096."""

OTHER_TEST = (
    "choose the test split with --set data.yolo.test=val, test or held-out, a tenth of the images "
    "in train"
)

LEAVES_ROOT = re.compile(r"\.\.(/|$)")
LEADING_PARENTS = re.compile(r"^(?:\.\./)+")


def listed_images(description: Description, key: str) -> list[str]:
    """The images of a list, relative to the root, each once.

    Raises:
        ValueError: the list is missing, empty or too long.
    """
    value = description.lists[key]
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(isinstance(entry, str) and entry.strip() for entry in entries):
        hint = "" if key == "train" else f"; {OTHER_TEST}"
        raise ValueError(
            f"{description.path}: {key}: expected a folder of images or a list of their names "
            f"(.txt), found {found(value)}{hint}"
        )
    names: dict[str, None] = {}
    for entry in dict.fromkeys(entries):
        names |= dict.fromkeys(_entry_names(description, key, entry))
        _check_count(description.path, key, len(names))
    return list(names)


def _check_count(path: Path, what: str, count: int) -> None:
    if not 1 <= count <= MAX_SAMPLES:
        raise ValueError(f"{path}: {what}: expected 1 to {MAX_SAMPLES} images, found {count}")


def _entry_names(description: Description, key: str, entry: str) -> Iterable[str]:
    relative = _below_root(description, _base(description), entry)
    path = description.root / relative
    if path.is_dir():
        return [posixpath.normpath(f"{relative}/{name}") for name in image_names(path)]
    if path.suffix.lower() == ".txt" and path.is_file():
        return _listed_names(description, relative)
    raise ValueError(
        f"{description.path}: {key}: expected a folder of images or a list of their names (.txt) "
        f"at {path}, found neither"
    )


def _listed_names(description: Description, relative: str) -> list[str]:
    """The images of a list, whose names are relative to its own folder or to the lists'."""
    content = read_bytes(description.root / relative, MAX_LIST_BYTES, "a list of images")
    lines = [line.strip() for line in content.decode("utf-8-sig", errors="replace").splitlines()]
    lines = [line for line in lines if line]
    _check_count(description.root / relative, "its lines", len(lines))
    folder, other = posixpath.dirname(relative), _base(description)
    if not (description.root / _below_root(description, folder, lines[0])).exists():
        folder = other
    names = [_below_root(description, folder, line) for line in lines]
    if "." in names:
        raise ValueError(f"{description.root / relative}: expected names of images, found a folder")
    return names


def _base(description: Description) -> str:
    """The folder that lists are relative to: `path` if it is one below the root, or data.yaml's."""
    root = description.root
    folder = posixpath.dirname(description.path.relative_to(root).as_posix())
    if isinstance(description.folder, str):
        base = _normalized(root, folder, description.folder.replace("\\", "/"))
        is_name = not (LEAVES_ROOT.match(base) or "\0" in base or _is_too_long(base))
        if is_name and (root / base).is_dir():
            return base
    return folder


def _normalized(root: Path, base: str, name: str) -> str:
    """A name relative to the root; one that leads out of it begins with `..`."""
    if name.startswith("/"):
        return posixpath.relpath(name, root.absolute())
    return posixpath.normpath(posixpath.join(base, name))


def _below_root(description: Description, base: str, name: str) -> str:
    """A name in data.yaml or in a list, as a name relative to the root.

    Raises:
        ValueError: it leads out of the root.
    """
    name = name.replace("\\", "/")
    relative = _normalized(description.root, base, name)
    if LEAVES_ROOT.match(relative):
        relative = _normalized(description.root, base, LEADING_PARENTS.sub("", name))
    leads_out = LEAVES_ROOT.match(relative)
    check_names([name if leads_out else relative], description.root, description.path)
    if _is_too_long(relative):
        raise ValueError(
            f"{description.path}: expected the name of a file or folder, found one of "
            f"{len(relative)} letters, {relative!r:.80}"
        )
    return relative


def _is_too_long(name: str) -> bool:
    parts = [len(part.encode(errors="replace")) for part in name.split("/")]
    return max(parts) > MAX_PART_BYTES or sum(parts) > MAX_NAME_BYTES
