"""A work directory: where each stage's files lie, and how they are written.

    work/demo/
      recipe.json   the settings of the first stage, from which later ones start
      teacher/      weights.safetensors  state.pt  metrics.jsonl  record.json
      heatmaps.zarr/
      student/      the same as teacher/; further students under their names
      sweeps/       grids of students, a folder each (`sweeping.py`)
      evaluation/   report.html  report.json  pck_curve.png  predictions/

A stage is finished when its `record.json` is there: it is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import cv2
import numcodecs
import numpy as np
import torch
import zarr

from .. import __version__
from ..data.files import read_bytes
from .recipe import Recipe, apply_overrides, check_name, load_recipe

DEFAULT_RECIPE = "demo"
MAX_JSON_BYTES = 1 << 28


@dataclass(frozen=True)
class WorkDir:
    """Paths below one folder."""

    root: Path

    @property
    def teacher(self) -> ModelDir:
        return ModelDir(self.root / "teacher")

    @property
    def store(self) -> Path:
        return self.root / "heatmaps.zarr"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    def check_teacher(self) -> None:
        """Refuse to go on without a teacher.

        Raises:
            ValueError: naming the command that trains one.
        """
        if not self.teacher.finished:
            raise ValueError(
                f"{self.teacher.path} has no finished teacher: run `fpd run teacher -w {self.root}`"
            )

    def named(self, recipe: Recipe) -> str:
        """What messages put after `-w`: this directory, and its store where it lies elsewhere."""
        elsewhere = recipe.store.location
        return str(self.root) if elsewhere is None else f"{self.root} --store {elsewhere}"

    def student(self, name: str) -> ModelDir:
        return ModelDir(self.root / check_name(name))

    def sweep(self, name: str) -> Path:
        return self.root / "sweeps" / check_name(name)

    def models(self) -> dict[str, ModelDir]:
        """Finished models by name, the teacher first."""
        folders = [self.root / "teacher", *sorted(self.root.glob("*"))]
        return {f.name: ModelDir(f) for f in folders if (f / "record.json").is_file()}

    @property
    def kept_recipe(self) -> Path:
        return self.root / "recipe.json"

    def recipe(self, name_or_path: str | None, overrides: tuple[str, ...]) -> Recipe:
        """The recipe of a command.

        One that the command names is taken as it is; otherwise the directory's own is, and the
        shipped demo where there is none.
        """
        if name_or_path is not None or not self.kept_recipe.is_file():
            return load_recipe(name_or_path or DEFAULT_RECIPE, overrides)
        return apply_overrides(read_json(self.kept_recipe), overrides)

    def keep(self, recipe: Recipe) -> None:
        """Make a command's recipe the directory's own, unless a stage has left something there.

        Raises:
            ValueError: the directory cannot be written to.
        """
        self.create()
        begun = any(entry.is_dir() for entry in self.root.iterdir())
        if not begun or not self.kept_recipe.is_file():
            write_json(self.kept_recipe, recipe.model_dump(mode="json"), sort_keys=False)

    def keep_setting(self, recipe: Recipe, section: str, key: str) -> None:
        """Give the directory's own recipe, where there is one, a setting of a command's."""
        if not self.kept_recipe.is_file():
            return
        kept, chosen = read_json(self.kept_recipe), recipe.model_dump(mode="json")
        value = chosen[section].get(key)  # what is the default may be left out
        if kept.get(section, {}).get(key) != value:
            rest = {k: v for k, v in kept.get(section, {}).items() if k != key}
            kept[section] = rest if value is None else rest | {key: value}
            write_json(self.kept_recipe, kept, sort_keys=False)

    def create(self) -> None:
        """Make the folder.

        Raises:
            ValueError: it cannot be made or written to.
        """
        make_writable(self.root, "work directory", "name another with -w")


@dataclass(frozen=True)
class ModelDir:
    """A trained network's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def state(self) -> Path:
        return self.path / "state.pt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def record_path(self) -> Path:
        return self.path / "record.json"

    @property
    def finished(self) -> bool:
        return self.record_path.is_file()

    def record(self) -> dict[str, Any]:
        return read_json(self.record_path)


def make_writable(folder: Path, what: str, remedy: str) -> None:
    """Make a folder, and see that files can be written into it.

    Raises:
        ValueError: they cannot; `what` the folder is, and the `remedy`, stand in the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{what} {folder} cannot be written to ({error.strerror}): {remedy}"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read one of our own JSON files.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    content = read_bytes(path, MAX_JSON_BYTES, "one of fpd's own files")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it and run its stage again"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged (no JSON object): remove it and run its stage again")
    return value


def write_json(path: Path, value: dict[str, Any], *, sort_keys: bool = True) -> None:
    """Write a JSON file whole or not at all, the same bytes for the same value.

    Args:
        sort_keys: False where their order means something, as a sweep's points' does.
    """
    with atomic(path) as temporary:
        temporary.write_text(as_json(value, sort_keys=sort_keys), "utf-8")


def as_json(value: dict[str, Any], *, sort_keys: bool = True) -> str:
    """The text of one of our own JSON files."""
    return json.dumps(value, indent=2, sort_keys=sort_keys) + "\n"


def check_output(json_path: Path | None, inputs: tuple[Path, ...]) -> None:
    """Refuse, before the work rather than after it, what cannot or must not be written to.

    Raises:
        ValueError: there is no such folder, nothing can be written to it, or the file is one of the
            inputs.
    """
    if json_path is None:
        return
    if not json_path.parent.is_dir():
        raise ValueError(f"{json_path}: expected a folder {json_path.parent}, found none")
    if json_path.exists() and any(p.exists() and json_path.samefile(p) for p in inputs):
        raise ValueError(f"{json_path} is one of the files to read: name another with --json")
    if json_path.exists() and not S_ISREG(json_path.lstat().st_mode):
        raise ValueError(
            f"{json_path}: expected a new file or a plain one to replace, found another kind: name "
            "another with --json"
        )
    make_writable(json_path.parent, "the folder", "name a file in another with --json")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write to, synced and renamed to `path` when the block succeeds.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    with together(path) as (temporary,):
        yield temporary


@contextmanager
def together(*paths: Path) -> Iterator[list[Path]]:
    """Temporary paths to write to; all are synced before the first is renamed.

    So a disk that is full leaves files that belong together as they were, all of them.

    Raises:
        OSError: one cannot be written; `filename` is the path that it was meant for.
    """
    # Not by process id: on a shared disk, processes of two machines may have the same.
    names = {p.with_name(f".{p.name}.{secrets.token_hex(8)}.tmp"): p for p in paths}
    try:
        yield list(names)
        for temporary in names:
            sync(temporary)
        for temporary, path in names.items():
            temporary.replace(path)
        for folder in {path.parent for path in paths}:
            sync(folder)
    except OSError as error:
        # People know the files' own names; writing to a full disk names none.
        meant = {str(temporary): path for temporary, path in names.items()}.get(error.filename)
        nameless = error.errno is not None and error.filename is None  # not a library's own message
        if meant is not None or nameless:
            error.filename = str(meant or paths[0])
        raise
    finally:
        for temporary in names:
            with suppress(OSError):  # what went wrong before is what matters
                temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file's, or a folder's, content reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides pixels and numbers."""
    packages = (cv2, numcodecs, np, torch, zarr)
    found = {package.__name__: package.__version__ for package in packages}
    return {"fpd": __version__, "python": platform.python_version()} | found
