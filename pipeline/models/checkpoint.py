"""Trained models: saves weights, and loads a model from its folder (`model_dir`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import nn

from ...data.geometry import Geometry
from ...data.io.files import read_bytes
from ...data.skeletons import Skeleton
from ..runtime.files import atomic
from .model_dir import MAX_WEIGHTS_BYTES, ModelDir, Record
from .networks import AnyModel, parse_model
from .offset import fix_offset


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
    record = folder.facts()
    model = _parse_network(folder, record)
    network: nn.Module = model.build(record.skeleton.num_joints)
    parse_weights(network, folder.read_weights(record), folder.weights)
    network = to_device(fix_offset(network, record.log_mass), device).eval()
    return TrainedModel(
        name=folder.name,
        network=network,
        model=model,
        geometry=record.geometry,
        skeleton=record.skeleton,
        weights_sha256=record.result.weights_sha256,
    )


def _parse_network(folder: ModelDir, record: Record) -> AnyModel:
    """The settings of the network; those of timm's refuse where timm is not installed."""
    try:
        return parse_model(record.model)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{folder.record_path}: model: {message}") from None


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
        return folder.read_weights(folder.facts())
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
