"""Files that `fpd export` wrote, read back: what runs there is what is scored and used here.

    .onnx   run by onnxruntime, with the description in the metadata
    .pt2    run by PyTorch, with the description as an extra file
    .tflite run by LiteRT, with the description in the metadata

A file may be of unknown origin, and is checked as a teacher's is before anything of it runs. A new
format is an entry of `READERS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import StringConstraints, TypeAdapter

from ...data.geometry import Geometry
from ...data.limits import MAX_JOINTS, MAX_NAME_CHARS
from ...data.skeletons import Skeleton
from ..models.export.deployable import OUTPUTS, ModelOutput, ModelRunner, in_pytorch
from ..models.export.formats import DESCRIPTION, open_onnx
from ..models.export.tflite_file import open_tflite
from ..teachers import tflite_file
from ..teachers.exported import read_program
from ..teachers.network_file import first_line
from ..teachers.onnx_file import digest_of, read_checked

Name = Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS)]


@dataclass(frozen=True)
class Description:
    """What is read of a file's description (`export.formats.describe`).

    Attributes:
        name: of the model that was exported.
        weights_sha256: of its weights, in hexadecimal.
        crop_px: side of the square crops that the file takes, pixels.
        skeleton, joints, limbs, mirror: the parts of a `Skeleton`.
    """

    name: Name
    weights_sha256: Name
    crop_px: int
    skeleton: Name
    joints: tuple[Name, ...]
    limbs: tuple[tuple[int, int], ...]
    mirror: tuple[int, ...]

    def __post_init__(self) -> None:
        count = len(self.joints)
        indices = {*self.mirror, *(joint for limb in self.limbs for joint in limb)}
        if not 1 <= count <= MAX_JOINTS or len(self.limbs) > MAX_JOINTS:
            raise ValueError("too many joints or limbs, or none")
        if len(self.mirror) != count or not indices <= set(range(count)):
            raise ValueError("a joint's index is out of range")


@dataclass(frozen=True)
class ExportedModel:
    """An exported file, ready to run.

    Attributes:
        path: of the file.
        sha256: of its content, in hexadecimal.
        description: what it states of itself.
        geometry: sizes of its crops; its heatmaps are not used.
        skeleton: the joints that it predicts. What only scores need is not in a file: it is empty.
        run: from crops, uint8 (B, S, S, 3), to joints and peaks, which are checked.
    """

    path: Path
    sha256: str
    description: Description
    geometry: Geometry
    skeleton: Skeleton
    run: ModelRunner

    @property
    def name(self) -> str:
        return self.description.name


class File(NamedTuple):
    """What a reader makes of a file; `description` is JSON, "" if the file has none."""

    run: ModelRunner
    description: str
    sha256: str


def read_exported(path: Path) -> ExportedModel:
    """Read a file that `fpd export` wrote.

    Raises:
        ValueError: a package is missing, or the file is missing, damaged, of another tool, or holds
            more than a network.
    """
    read = READERS.get(path.suffix)
    if read is None:
        raise ValueError(
            f"{path}: expected an exported model, {', '.join(READERS)}, found another suffix"
        )
    if not path.is_file():  # before what is missing of the packages that read it
        raise ValueError(f"{path}: expected an exported model, found no file")
    file = read(path)
    try:
        text = json.loads(file.description)
        description = TypeAdapter(Description).validate_python(text)
        geometry = Geometry(crop_px=description.crop_px)
    except (ValueError, RecursionError):
        raise ValueError(
            f"{path}: expected a file that `fpd export` wrote, found one without its description"
        ) from None
    skeleton = Skeleton(
        name=description.skeleton,
        joints=description.joints,
        flip_indices=description.mirror,
        limbs=description.limbs,
        groups=(),
        normalizer=None,
        threshold=0.0,
    )
    run = _checked(path, file.run, len(description.joints))
    return ExportedModel(path, file.sha256, description, geometry, skeleton, run)


def _checked(path: Path, run: ModelRunner, joints: int) -> ModelRunner:
    """A runner that refuses outputs of other shapes than described, or that are not finite."""

    def checked(crops_BSS3: NDArray[np.uint8]) -> ModelOutput:
        try:
            output = run(crops_BSS3)
        except Exception as error:  # of many types
            raise ValueError(f"{path} cannot be run: {first_line(error)}") from None
        if not all(isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in output[:2]):
            raise ValueError(f"{path}: expected joints and peaks that are floating-point numbers")
        count = len(crops_BSS3)
        shapes = output.joints.shape, output.peaks.shape
        if shapes != ((count, joints, 2), (count, joints)):
            raise ValueError(
                f"{path}: expected joints and peaks of {count} x {joints}, found {shapes}"
            )
        if not (np.isfinite(output.joints).all() and np.isfinite(output.peaks).all()):
            raise ValueError(f"{path} gives joints that are not finite: export it again")
        return output

    return checked


def _read_onnx(path: Path) -> File:
    file = read_checked(path)
    content = file.model.SerializeToString()
    try:
        run = open_onnx(content)
    except Exception as error:  # of many types
        raise ValueError(f"{path} cannot be run by onnxruntime: {first_line(error)}") from None
    return File(run, file.metadata.get(DESCRIPTION, ""), digest_of(path, file.digests))


def _read_program(path: Path) -> File:
    program = read_program(path)
    return File(in_pytorch(program.network), program.description, program.sha256)


def _read_tflite(path: Path) -> File:
    file = tflite_file.read_checked(path)
    if missing := [name for name in OUTPUTS if name not in file.outputs]:
        raise ValueError(f"{path}: expected an output {missing[0]}, found none of this name")
    try:
        run = open_tflite(file.content, file.outputs)
    except Exception as error:  # of many types
        raise ValueError(f"{path} cannot be run by LiteRT: {first_line(error)}") from None
    return File(run, file.description.decode("utf-8", "replace"), file.sha256)


READERS: dict[str, Callable[[Path], File]] = {
    ".onnx": _read_onnx,
    ".pt2": _read_program,
    ".tflite": _read_tflite,
}
"""By suffix."""
