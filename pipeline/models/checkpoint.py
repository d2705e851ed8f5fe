"""The folder of a trained model: what is in it, and how to load the model from it.

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

import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import nn

from ...data.io.files import read_bytes
from ...data.settings import Settings
from ...data.skeletons import Skeleton
from ...data.views import Geometry
from ..runtime.files import atomic, read_sealed_json, sha256
from .networks import AnyModel
from .offset import fix_offset

MAX_WEIGHTS_BYTES = 16 << 30
"""Limit of a weights file, which is read into memory; the paper's teacher has 0.1 GB."""


class ModelFacts(Settings):
    """What a record states about its weights; enough to use them without the data set.

    Attributes:
        model: the network's settings.
        geometry: sizes of the crop and of the heatmap.
        skeleton: the joints that the heatmaps are of, in order.
        log_mass: logarithm of the mass that `fix_offset` shifts every heatmap to; None: no shift.
        weights_sha256: of the weights file, in hexadecimal (in a record under `result`).
    """

    model: AnyModel
    geometry: Geometry
    skeleton: Skeleton
    log_mass: float | None
    weights_sha256: str


@dataclass(frozen=True)
class ModelDir:
    """The paths in a model's folder, and its record."""

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
        """The content of `record.json`.

        Raises:
            ValueError: it is missing or damaged, or was changed since it was written.
        """
        return read_sealed_json(self.record_path, f"remove {self.path} and train it again")

    def identity(self) -> dict[str, Any]:
        """What the weights depend on, by the record: "settings" and "inputs".

        Raises:
            ValueError: the record is missing or damaged.
        """
        identity = self.record().get("identity")
        parts = ("settings", "inputs")
        if not isinstance(identity, dict) or not all(
            isinstance(identity.get(part), dict) for part in parts
        ):
            raise ValueError(f"{self.record_path} is damaged (no identity): {self._remedy}")
        return identity

    def checked_record(self) -> dict[str, Any]:
        """The content of `record.json`, whose "result" has the numbers that commands print.

        Raises:
            ValueError: the record is missing or damaged, or has no such result.
        """
        record = self.record()
        result = record.get("result")
        kinds_of: dict[str, tuple[type, ...]] = {
            "seconds": (int, float),
            "epochs": (int,),
            "best_epoch": (int,),
            "validation_pck": (int, float, type(None)),
        }
        if not isinstance(result, dict) or not all(
            key in result and isinstance(result[key], kinds) and not isinstance(result[key], bool)
            for key, kinds in kinds_of.items()
        ):
            raise ValueError(f"{self.record_path} is damaged (no result): {self._remedy}")
        return record

    def recorded_sha256(self) -> str:
        """SHA-256 of the weights file by the record, in hexadecimal; the file is not read.

        Raises:
            ValueError: the record is missing or damaged.
        """
        result = self.record().get("result")
        digest = result.get("weights_sha256") if isinstance(result, dict) else None
        if not isinstance(digest, str):
            raise ValueError(
                f"{self.record_path} is damaged (no result.weights_sha256): {self._remedy}"
            )
        return digest

    def read_weights(self) -> bytes:
        """The content of the weights file, which is the one that the record describes.

        Raises:
            ValueError: the weights or the record are missing or damaged, or the record describes
                another file.
        """
        expected = self.recorded_sha256()
        self._check_exists()
        content = read_bytes(self.weights, MAX_WEIGHTS_BYTES, "weights")
        self._check_digest(expected, hashlib.sha256(content).hexdigest())
        return content

    def check_weights(self) -> str:
        """SHA-256 of the weights file, in hexadecimal, after comparing it with the record.

        Raises:
            ValueError: see `read_weights`.
        """
        expected = self.recorded_sha256()
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

    def facts(self) -> ModelFacts:
        """What the record states about the weights.

        Raises:
            ValueError: the record is missing or damaged, or its network cannot be built here.
        """
        record = self.record()
        try:
            facts = {name: record[name] for name in ("model", "geometry", "skeleton", "log_mass")}
            facts["weights_sha256"] = record["result"]["weights_sha256"]
            return ModelFacts.model_validate(facts)
        except KeyError as error:
            reason = f"no {error}"
        except TypeError:
            reason = "result: expected an object"
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "value_error" and first["loc"][:1] == ("model",):
                # Raised by the network's own settings, for example where timm is not installed.
                message = first["msg"].removeprefix("Value error, ")
                raise ValueError(f"{self.record_path}: {message}") from None
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ValueError(
            f"{self.record_path} is damaged, or was written by another version of fpd ({reason}): "
            f"remove {self.path} and train it again"
        )


@dataclass(frozen=True)
class TrainedModel:
    """A finished model.

    Attributes:
        name: its folder's name.
        network: in `eval()` mode, from normalized crops, float32 (B, 3, S, S), to a list of
            heatmaps, float32 (B, K, H, W), of which the last is the prediction.
        model, geometry: the settings that it was built and trained with.
        skeleton: the joints that its K heatmaps are of.
        weights_sha256: of its weights file.
    """

    name: str
    network: nn.Module
    model: AnyModel
    geometry: Geometry
    skeleton: Skeleton
    weights_sha256: str


def load_model(folder: ModelDir, device: torch.device) -> TrainedModel:
    """Load a finished model, ready to predict.

    Raises:
        ValueError: the record or the weights are missing or damaged, the weights are not those
            that the record describes, or the network cannot be built here.
    """
    facts = folder.facts()
    network: nn.Module = facts.model.build(facts.skeleton.num_joints)
    parse_weights(network, folder.read_weights(), folder.weights)
    network = to_device(fix_offset(network, facts.log_mass), device).eval()
    return TrainedModel(
        name=folder.name,
        network=network,
        model=facts.model,
        geometry=facts.geometry,
        skeleton=facts.skeleton,
        weights_sha256=facts.weights_sha256,
    )


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, in the channels-last memory format."""
    # A third faster than contiguous on CPUs, and the layout that tensor cores compute in.
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def save_weights(network: nn.Module, out: ModelDir) -> str:
    """Write the network's tensors to `weights.safetensors`, and return the file's SHA-256."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    content = save(tensors)
    with atomic(out.weights) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_weights_file(path: Path) -> bytes:
    """The content of a weights file; of one in a finished model's folder, as the record has it.

    Raises:
        ValueError: the file cannot be read, or is not the one that the record beside it describes.
    """
    folder = ModelDir(path.parent)
    if path.name == folder.weights.name and folder.finished:
        return folder.read_weights()
    return read_bytes(path, MAX_WEIGHTS_BYTES, "weights")


def parse_weights(network: nn.Module, content: bytes, path: Path) -> None:
    """Load a network's tensors from the content of a safetensors file.

    Args:
        path: of the file, for messages.

    Raises:
        ValueError: the content is damaged, or another network's.
    """
    try:
        tensors = load(content)
    except Exception as error:  # safetensors has its own error class for damaged files
        raise ValueError(f"{path} cannot be read as weights: {error}") from None
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} holds weights of another network: {reason}") from None
