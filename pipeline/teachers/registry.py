"""What `--teacher` may name, and how it is found out which of them is meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ..models.checkpoint import ModelDir
from ..runtime.files import sha256
from . import exported, hourglass, vitpose
from . import factory as python
from . import trained_run as folder
from .spec import Teacher

FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class TeacherRef(NamedTuple):
    """A teacher as named.

    Attributes:
        kind: "hourglass", "vitpose", "exported", "python" or "folder".
        path: where it lies; None: it is Python code.
        layout: of an hourglass whose project was named.
        name: as given.
    """

    kind: str
    path: Path | None
    layout: str | None
    name: str

    @property
    def is_there(self) -> bool:
        return self.path is None or self.path.exists()

    @property
    def absolute(self) -> str:
        """The same, from any working directory."""
        if self.path is None:
            return self.name
        prefix = "" if self.layout is None else f"{self.layout}:"
        return prefix + str(self.path.absolute())


def parse(name: str) -> TeacherRef:
    """Which teacher a text means.

    Raises:
        ValueError: none.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in hourglass.LAYOUTS:
        return TeacherRef("hourglass", Path(rest), prefix, name)
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        return TeacherRef("vitpose", path, None, name)
    if path.is_dir() and ModelDir(path).finished:
        return TeacherRef("folder", path, None, name)
    if path.suffix == ".pt2":
        return TeacherRef("exported", path, None, name)
    if path.suffix in hourglass.SUFFIXES:
        return TeacherRef("hourglass", path, None, name)
    if FACTORY.fullmatch(name):
        return TeacherRef("python", None, None, name)
    if not path.exists() and not colon:
        return TeacherRef("folder", path, None, name)  # one that was there when the store was made
    raise ValueError(
        f"--teacher {name}: expected a file of hourglass weights ({', '.join(hourglass.SUFFIXES)}; "
        f"whose, as {':FILE, '.join(hourglass.LAYOUTS)}:FILE), a .pt2 program, a folder with a "
        "ViTPose or a finished model, or package.module:factory"
    )


def load(source: TeacherRef) -> Teacher:
    """The teacher, on the CPU.

    Raises:
        ValueError: there is none, or it cannot be used; see each kind.
    """
    path = source.path
    if path is None:
        return python.load(source.name)
    if not path.exists():
        raise ValueError(f"--teacher {source.name}: expected a file or folder, found none")
    if source.kind == "hourglass":
        return hourglass.load(path, source.layout)
    if source.kind == "exported":
        return exported.load(path)
    return vitpose.load(path) if source.kind == "vitpose" else folder.load(path)


def quick_digest(source: TeacherRef) -> str | None:
    """The digest, where files tell it without the network being built; else None."""
    if source.path is None or not source.path.exists():
        return None
    if source.kind == "vitpose":
        return vitpose.digest(source.path)
    file = ModelDir(source.path).weights if source.kind == "folder" else source.path
    return sha256(file) if file.is_file() else None
