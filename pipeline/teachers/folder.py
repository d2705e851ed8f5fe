"""A network that another run trained here: `--teacher work/other/teacher`.

Out of its folder come weights and settings; joints, as names, do not lie there, so they are those
of the one known skeleton with as many.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ...data.views import Geometry
from ..sections import Targets
from ..training.train import load_model
from ..workdir import ModelDir, sha256
from .joints import skeleton_of
from .spec import TeacherSpec


class FolderTeacher:
    """A finished model's folder."""

    def __init__(self, network: nn.Module, spec: TeacherSpec, digest: str) -> None:
        self.network, self.spec, self.digest = network, spec, digest

    def to(self, device: torch.device) -> FolderTeacher:
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        last: Tensor = self.network(crops_B3HW)[-1]
        return last


def load(path: Path) -> FolderTeacher:
    """The network of a finished run.

    Raises:
        ValueError: its folder is damaged, or its joints are not known.
    """
    folder = ModelDir(path)
    settings = _settings(folder)
    geometry = Geometry.model_validate(settings["geometry"])
    targets = Targets.model_validate(settings["targets"])
    skeleton = skeleton_of(_joints(folder))
    network = load_model(folder, skeleton.num_joints, torch.device("cpu"))
    spec = TeacherSpec(
        input=(geometry.crop_px, geometry.crop_px),
        joints=skeleton.joints,
        stride_px=geometry.stride_px,
        # Eq. 2 as it is written has the peak of a density.
        peak=1 / (2 * math.pi * targets.sigma_px**2) if targets.area_normalised else 1.0,
        sigma_px=targets.sigma_px,
    )
    return FolderTeacher(network.requires_grad_(False), spec, sha256(folder.weights))


def _settings(folder: ModelDir) -> dict[str, dict[str, dict[str, object]]]:
    record = folder.record()
    try:
        settings: dict[str, dict[str, dict[str, object]]] = record["identity"]["settings"]
        assert {"geometry", "targets", "training"} <= settings.keys()
        return settings
    except (KeyError, TypeError, AttributeError, AssertionError):
        raise ValueError(
            f"{folder.record_path} is damaged: expected a finished model's folder, such as "
            "work/other/teacher"
        ) from None


def _joints(folder: ModelDir) -> int:
    """How many maps a network has: what its last layer's bias has."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder.weights, framework="pt") as file:
            return int(file.get_slice("score.0.bias").get_shape()[0])
    except (SafetensorError, OSError, IndexError) as error:
        raise ValueError(f"{folder.weights} cannot be read as weights: {error}") from None
