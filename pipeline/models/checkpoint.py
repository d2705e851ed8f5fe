"""A trained model's folder: what is in it, and the model loaded from it.

    weights.safetensors   the network's tensors
    record.json           what they are weights of, and how they came about
    state.pt              the training state, from which an interrupted run continues
    metrics.jsonl         one row for each epoch

`record.json` is written last: a folder that has one is finished. At its top level it states, for
users of the weights who have neither the data set nor the recipe:

    model      the network's settings: the kind, and its size
    geometry   the crop's and the heatmap's
    skeleton   what each heatmap is of
    log_mass   what each heatmap is shifted to (see `offset`); null: nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save
from torch import nn

from ...data.skeletons import Skeleton
from ...data.views import Geometry
from ..runtime.files import atomic, read_json
from .networks import AnyModel
from .offset import fix_offset


class ModelFacts(BaseModel):
    """What a record states of its weights, so that they can be used without the data set."""

    model: AnyModel
    geometry: Geometry
    skeleton: Skeleton
    log_mass: float | None


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
        """The content of `record.json`.

        Raises:
            ValueError: it is missing or damaged.
        """
        return read_json(self.record_path)

    def facts(self) -> ModelFacts:
        """What the record states of the weights.

        Raises:
            ValueError: the record is missing or damaged, or its network cannot be built here.
        """
        record = self.record()
        try:
            return ModelFacts.model_validate(
                {name: record[name] for name in ModelFacts.model_fields}
            )
        except KeyError as error:
            reason = f"no {error}"
        except ValidationError as error:
            first = error.errors()[0]
            own = first["type"] == "value_error"  # one of our own checks: its sentence says it all
            if own and first["loc"][:1] == ("model",):
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
        name: its folder's.
        network: in `eval()`, from normalized crops, float32 (B, 3, S, S), to a list of heatmaps,
            float32 (B, K, H, W); the last one is the prediction.
        model, geometry: what it was built and trained with.
        skeleton: what its K heatmaps are of.
        weights_sha256: of its weights file, as its record has it.
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
        ValueError: the record or the weights are missing, damaged, or of another kind, or the
            network cannot be built here.
    """
    facts = folder.facts()
    network: nn.Module = facts.model.build(facts.skeleton.num_joints)
    load_weights(network, folder.weights)
    network = to_device(fix_offset(network, facts.log_mass), device).eval()
    sha256 = str(folder.record().get("result", {}).get("weights_sha256"))
    return TrainedModel(folder.name, network, facts.model, facts.geometry, facts.skeleton, sha256)


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, in to_device, in the memory format that it runs fastest in."""
    # Channels last: a third faster on CPU, and what tensor cores want.
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def save_weights(network: nn.Module, out: ModelDir) -> None:
    """Write the network's tensors to `weights.safetensors`."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with atomic(out.weights) as temporary:
        temporary.write_bytes(save(tensors))


def load_weights(network: nn.Module, path: Path) -> None:
    """Load tensors from a safetensors file.

    Raises:
        ValueError: it is missing, damaged, or of another network.
    """
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors has its own error class for damage
        raise ValueError(f"{path} cannot be read as weights: {error}") from None
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} holds weights of another network: {reason}") from None
