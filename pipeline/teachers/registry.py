"""What `--teacher` may name: parse a name into a kind of teacher, and load it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ..models.model_dir import ModelDir
from ..runtime.files import sha256
from . import (
    exported,
    factory,
    hourglass,
    hub,
    onnx_file,
    tflite_file,
    trained_run,
    vitpose,
)
from .spec import Teacher

SUFFIXES = {".pt2": "exported", ".onnx": "onnx", ".tflite": "tflite"}
"""Kinds of teachers by the suffix of their file."""

FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class TeacherRef(NamedTuple):
    """A reference to a teacher.

    Attributes:
        kind: "hourglass", "vitpose", "exported", "onnx", "tflite", "python" or "folder" (of a
            finished model).
        path: its file or folder; None for "python", and for a model on the Hugging Face hub that
            is not in the hub's cache.
        layout: the project that trained an hourglass, if the name has one.
        name: the name as given.
        hub: the model on the Hugging Face hub, if the name states one.
    """

    kind: str
    path: Path | None
    layout: str | None
    name: str
    hub: hub.HubRef | None = None

    @property
    def exists(self) -> bool:
        """Whether its file or folder exists here; True for "python", whose code is not run."""
        return self.kind == "python" or (self.path is not None and self.path.exists())

    @property
    def absolute(self) -> str:
        """The name with an absolute path, for use from any working directory."""
        if self.path is None or self.hub is not None:
            return self.name
        prefix = "" if self.layout is None else f"{self.layout}:"
        return prefix + str(self.path.absolute())


def parse(name: str) -> TeacherRef:
    """Parse a `--teacher` name. The path need not exist.

    Raises:
        ValueError: the name is of no known form.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in hourglass.LAYOUTS:
        return TeacherRef("hourglass", Path(rest), prefix, name)
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        return TeacherRef("vitpose", path, None, name)
    if path.is_dir() and ModelDir(path).finished:
        return TeacherRef("folder", path, None, name)
    hub_ref = hub.parse(name)
    if hub_ref is not None:
        kind = SUFFIXES[Path(hub_ref.file).suffix] if hub_ref.file else "vitpose"
        return TeacherRef(kind, hub.cached(hub_ref), None, name, hub_ref)
    if path.suffix in SUFFIXES and not colon:
        return TeacherRef(SUFFIXES[path.suffix], path, None, name)
    if path.suffix in hourglass.SUFFIXES:
        return TeacherRef("hourglass", path, None, name)
    if FACTORY.fullmatch(name) and prefix != "hf":
        return TeacherRef("python", None, None, name)
    if not path.exists() and not colon:
        return TeacherRef("folder", path, None, name)  # may have existed when the store was made
    raise ValueError(
        f"--teacher {name}: expected a file of hourglass weights ({', '.join(hourglass.SUFFIXES)}; "
        f"{':FILE, '.join(hourglass.LAYOUTS)}:FILE states the project that trained it), a .pt2, "
        ".onnx or .tflite file, a folder with a ViTPose or a finished model, hf:ORG/NAME, or "
        f"package.module:factory{_finished_below(path)}"
    )


def _finished_below(path: Path) -> str:
    """The end of the message for a work directory: the folder of its teacher, or of a student."""
    names = ("teacher", "student")
    models = [path / name for name in names if ModelDir(path / name).finished]
    return f"; found a work directory, whose {models[0].name} is {models[0]}" if models else ""


class CodeNotAllowed(ValueError):
    """A teacher is Python code, which this command may not run."""


def check_allowed(name: str, *, allow_code: bool) -> None:
    """Refuse to run a factory, unless code is allowed.

    Raises:
        CodeNotAllowed: the message names it, and the option that allows it.
    """
    if not allow_code:
        raise CodeNotAllowed(
            f"the recipe names {name} as a teacher: Python code, which was not run. If you trust "
            "that module, run the same command with --allow-code"
        )


def load(ref: TeacherRef, *, allow_code: bool) -> Teacher:
    """Load a teacher, on the CPU.

    Args:
        allow_code: whether to run Python code, if the teacher is a factory. Only the user's own
            command line may set it, never a file.

    Raises:
        CodeNotAllowed: it is a factory, and code is not allowed.
        ValueError: it does not exist or cannot be used; see the `load` of each kind.
    """
    if ref.kind == "python":
        check_allowed(ref.name, allow_code=allow_code)
        return factory.load(ref.name)
    path = require(ref)
    if ref.kind == "hourglass":
        return hourglass.load(path, ref.layout)
    if ref.kind == "onnx":
        root = None if ref.hub is None else hub.root_of(ref.hub, path)
        return onnx_file.load(path, _full_name(ref), root=root)
    if ref.kind == "tflite":
        return tflite_file.load(path, _full_name(ref))
    if ref.kind == "exported":
        return exported.load(path)
    return vitpose.load(path) if ref.kind == "vitpose" else trained_run.load(path)


def require(ref: TeacherRef) -> Path:
    """The file or folder of a teacher that is no factory; a model on the hub is downloaded.

    Raises:
        ValueError: it does not exist, or cannot be downloaded.
    """
    if ref.hub is not None:
        return hub.fetch(ref.hub)
    assert ref.path is not None  # only factories have none
    if not ref.path.exists():
        raise ValueError(f"--teacher {ref.name}: expected a file or folder, found none")
    return ref.path


def _full_name(ref: TeacherRef) -> str:
    """The name in which a known network is looked for: with the folders or the hub's repository."""
    return ref.name if ref.hub is not None else ref.absolute


def quick_digest(ref: TeacherRef) -> str | None:
    """A teacher's digest, if files determine it without building the network; otherwise None.

    Raises:
        ValueError: see `model_digest`.
    """
    if ref.path is None or not ref.path.exists():
        return None
    if ref.kind == "vitpose":
        return vitpose.digest(ref.path)
    if ref.kind == "onnx" and ref.path.is_file():
        return onnx_file.digest(ref.path)
    if ref.kind == "folder":
        return model_digest(ModelDir(ref.path))
    return sha256(ref.path) if ref.path.is_file() else None


def model_digest(folder: ModelDir) -> str | None:
    """SHA-256 of a finished model's weights; None: the folder has no finished model.

    Weights that were removed, as a store does not need them, have the digest in the record.

    Raises:
        ValueError: the record is damaged, or the weights are not those that it describes.
    """
    if not folder.finished:
        return None
    return (
        folder.check_weights() if folder.weights.exists() else folder.facts().result.weights_sha256
    )
