"""A finished model of another work directory: `--teacher work/other/teacher`.

Weights, geometry and joints come from its folder.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ..config.sections import Targets
from ..models.checkpoint import load_model
from ..models.model_dir import ModelDir
from .spec import TeacherSpec


class TrainedRunTeacher:
    """A teacher that runs the network of a finished model."""

    def __init__(self, network: nn.Module, spec: TeacherSpec, digest: str) -> None:
        self.network, self.spec, self.digest = network, spec, digest

    def to(self, device: torch.device) -> TrainedRunTeacher:
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        heatmaps: Tensor = self.network(crops_B3HW)[-1]
        return heatmaps


def load(path: Path) -> TrainedRunTeacher:
    """Load a finished model.

    Raises:
        ValueError: its record or its weights are missing or damaged.
    """
    folder = ModelDir(path)
    model = load_model(folder, torch.device("cpu"))
    targets = _targets(folder)
    spec = TeacherSpec(
        input=(model.geometry.crop_px, model.geometry.crop_px),
        joints=model.skeleton.joints,
        stride_px=model.geometry.stride_px,
        # The peak of the density of eq. 2 as it is written in the paper.
        peak=1 / (2 * math.pi * targets.sigma_px**2) if targets.area_normalized else 1.0,
        sigma_px=targets.sigma_px,
    )
    return TrainedRunTeacher(model.network.requires_grad_(False), spec, model.weights_sha256)


def _targets(folder: ModelDir) -> Targets:
    """The settings of the label heatmaps that the network was trained on."""
    try:
        return Targets.model_validate(folder.facts().identity.settings["targets"])
    except (KeyError, ValidationError):
        raise ValueError(
            f"{folder.record_path} is damaged: expected a finished model's folder, such as "
            "work/other/teacher"
        ) from None
