"""Photographs and videos given by file, folder or pattern."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .images import IMAGE_SUFFIXES
from .videos import VIDEO_SUFFIXES

MAX_FILES = 1_000_000

MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES


class Media(NamedTuple):
    """Files with different names, in the order in which they were given."""

    photos: tuple[Path, ...]
    videos: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return *self.photos, *self.videos


def find_media(paths: Sequence[Path]) -> Media:
    """The given files, and those directly inside the given folders; each once.

    A file is a video by its suffix (`VIDEO_SUFFIXES`), and otherwise a photograph. Of a folder, and
    of a pattern such as `photos/*.jpg`, which is expanded where the shell has not done it, only
    files with known suffixes count.

    Raises:
        ValueError: a path does not exist, a folder or a pattern has no such file, or two files
            share a name.
    """
    files: dict[Path, None] = {}  # an ordered set
    for path in paths:
        files |= dict.fromkeys(_expanded(path))
    if not 1 <= len(files) <= MAX_FILES:
        raise ValueError(
            f"expected 1 to {MAX_FILES} images or videos, found {len(files)}: name files or folders"
        )
    by_name: dict[str, Path] = {}
    for path in files:
        other = by_name.setdefault(path.name, path)
        if other != path and other.resolve() != path.resolve():
            raise ValueError(
                f"{other} and {path} have the same name, by which results and boxes are assigned "
                "to images: predict them in two calls, each with its own -o"
            )
    videos = tuple(path for path in by_name.values() if path.suffix.lower() in VIDEO_SUFFIXES)
    is_video = set(videos)
    return Media(tuple(path for path in by_name.values() if path not in is_video), videos)


def _expanded(path: Path) -> list[Path]:
    """The files that one argument stands for."""
    if path.is_dir():
        try:
            return _known(path, path.iterdir())
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        found = glob.iglob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute one
        return _known(path, map(Path, found))
    raise ValueError(f"{path}: expected an image, a video, or a folder of them, found nothing")


def _known(source: Path, files: Iterable[Path]) -> list[Path]:
    known = sorted(f for f in files if f.suffix.lower() in MEDIA_SUFFIXES and f.is_file())
    if not known:
        raise ValueError(
            f"{source}: expected images ({' '.join(sorted(IMAGE_SUFFIXES))}) or videos "
            f"({' '.join(sorted(VIDEO_SUFFIXES))}), found none"
        )
    return known
