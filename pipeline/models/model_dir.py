"""The folder of a trained model: what is in it. `checkpoint` loads the model.

    weights.safetensors   the network's tensors
    record.json           what the weights are, and how they were made
    state.pt              the training state, from which an interrupted run resumes
    metrics.jsonl         one row per epoch

`record.json` is written last: a folder that has one is finished. The weights can be used without
the data set and the recipe, because the record's top level states:

    model      the network's settings: its kind and its size
    geometry   sizes of the crop and of the heatmap
    skeleton   the joints that the heatmaps are of
    log_mass   the mass that every heatmap is shifted to (see `offset`); null: no shift
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ...data.geometry import Geometry
from ...data.io.files import read_bytes
from ...data.skeletons import Skeleton
from ..runtime.files import read_sealed_json, sha256

MAX_WEIGHTS_BYTES = 16 << 30
"""Limit of a weights file, which is read into memory; the paper's teacher has 0.1 GB."""


class Identity(BaseModel, strict=True):
    """What the weights depend on: settings, and digests of files and data by name."""

    settings: dict[str, dict[str, Any]]
    inputs: dict[str, Any]


class Result(BaseModel, strict=True, allow_inf_nan=False):
    """What came of a run: digests of its files in hexadecimal, and its numbers.

    Attributes:
        best_epoch: the epoch that the weights are of; it has the best validation PCK, if any.
        validation_pck: a share, 0 to 1; None: there were no validation samples.
        seconds: of training.
    """

    weights_sha256: str
    metrics_sha256: str
    epochs: int
    best_epoch: int
    validation_pck: float | None
    seconds: float


class Record(BaseModel, allow_inf_nan=False):
    """The parts of `record.json` that are read again. There are more, for people.

    Attributes:
        model: the network's settings. Not typed here: a store's student needs the record of its
            teacher, and need not have the packages of the teacher's network.
        geometry: sizes of the crop and of the heatmap.
        skeleton: the joints that the heatmaps are of, in order.
        log_mass: logarithm of the mass that `fix_offset` shifts every heatmap to; None: no shift.
    """

    model: dict[str, Any]
    geometry: Geometry
    skeleton: Skeleton
    log_mass: float | None
    identity: Identity
    result: Result


@dataclass(frozen=True)
class ModelDir:
    """The paths in a model's folder, and its record.

    Attributes:
        label: what messages call the model; "": as its folder.
    """

    path: Path
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.path.name

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
        """The content of `record.json`, which has at least the parts of a `Record`.

        Raises:
            ValueError: it is missing or damaged, or was changed since it was written.
        """
        record = read_sealed_json(self.record_path, f"remove {self.path} and train it again")
        self._parse(record)
        return record

    def facts(self) -> Record:
        """The parts of `record.json` that are read again, typed.

        Raises:
            ValueError: see `record`.
        """
        return self._parse(self.record())

    def _parse(self, record: dict[str, Any]) -> Record:
        try:
            return Record.model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{self.record_path} is damaged, or was written by another version of fpd ({key}: "
                f"{first['msg']}): {self._remedy}"
            ) from None

    def read_weights(self, record: Record) -> bytes:
        """The content of the weights file, which is the one that the record describes.

        Raises:
            ValueError: the weights are missing or damaged, or the record describes another file.
        """
        self._check_exists()
        content = read_bytes(self.weights, MAX_WEIGHTS_BYTES, "weights")
        self._check_digest(record.result.weights_sha256, hashlib.sha256(content).hexdigest())
        return content

    def check_weights(self) -> str:
        """SHA-256 of the weights file, in hexadecimal, after comparing it with the record.

        Raises:
            ValueError: see `facts` and `read_weights`.
        """
        expected = self.facts().result.weights_sha256
        self._check_exists()
        self._check_digest(expected, sha256(self.weights))
        return expected

    def _check_exists(self) -> None:
        if not self.weights.is_file():
            raise ValueError(
                f"{self.weights} is missing, although {self.record_path} describes a finished "
                f"model: {self._remedy}"
            )

    def _check_digest(self, expected: str, found: str) -> None:
        if found != expected:
            raise ValueError(
                f"{self.weights} is not the file that {self.record_path.name} describes (expected "
                f"SHA-256 {expected[:12]}…, found {found[:12]}…): it was damaged or replaced: "
                f"{self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return f"restore it, or remove {self.path} and train it again"
