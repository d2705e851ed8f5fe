"""Beside the stages: size, memory and speed of finished models on this machine.

    fpd profile -w work/demo
    fpd profile -w work/demo --name student --batch 64 --device cuda --json profile.json

Reads models' folders. Returns numbers.

What is timed is the exported model (`Deployable`): from uint8 crops on the device to joints. On
CUDA, a pass ends when the device has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pipeline.config.recipe import Recipe
from ..pipeline.models.checkpoint import TrainedModel, load_model
from ..pipeline.models.complexity import count
from ..pipeline.models.export.deployable import Deployable
from ..pipeline.runtime.files import check_output, versions, write_json
from ..pipeline.runtime.memory import peak_bytes
from ..pipeline.runtime.timing import time_interleaved
from ..pipeline.workdir import WorkDir


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    names: Sequence[str] = (),
    batch: int = 32,
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Profile models side by side.

    Args:
        names: folders of the models; none given: all finished models.
        batch: the larger of the two batch sizes that are timed; the other is 1.
        json_path: file to write the report to.

    Returns:
        "models" by name, each with "parameters", "gmacs" (10^9 multiply-accumulates a crop),
        "crop_px", "weights_bytes", and under "batches", by batch size, "peak_bytes" and the times
        of `Spread` in milliseconds; "batch", "device", "threads", "versions".

    Raises:
        ValueError: there is no finished model, or none of a given name, or `json_path` cannot be
            written.
    """
    check_output(json_path, ())
    names = names or list(work.models())
    if not names:
        raise ValueError(f"{work.root} has no finished model: run `fpd run all -w {work.root}`")
    models = {name: load_model(work.model(name), device) for name in names}
    profiles: dict[str, Any] = {name: _profile_size(model) for name, model in models.items()}
    for size in sorted({1, batch}):
        passes = {name: _forward_pass(model, size, device) for name, model in models.items()}
        for name, forward_pass in passes.items():
            peak = peak_bytes(forward_pass, device, profiles[name]["weights_bytes"])
            profiles[name]["batches"][str(size)] = {"peak_bytes": peak}
        for name, spread in time_interleaved(passes).items():
            profiles[name]["batches"][str(size)] |= asdict(spread)
    report = {
        "models": profiles,
        "batch": batch,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    if json_path is not None:
        write_json(json_path, report, sort_keys=False)
    return report


def _profile_size(model: TrainedModel) -> dict[str, Any]:
    crop_px = model.geometry.crop_px
    parameters, gmacs = count(model.model, model.skeleton.num_joints, crop_px)
    weights = model.network.state_dict().values()
    return {
        "parameters": parameters,
        "gmacs": gmacs,
        "crop_px": crop_px,
        "weights_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
        "batches": {},
    }


def _forward_pass(model: TrainedModel, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """A function that runs a model on one batch of random crops and returns when it is done."""
    crop_px = model.geometry.crop_px
    deployable = Deployable(model)
    crops_BSS3 = torch.randint(
        0, 256, (batch, crop_px, crop_px, 3), dtype=torch.uint8, device=device
    )

    def run_once() -> Tensor:
        with torch.inference_mode():
            joints_BK2: Tensor = deployable(crops_BSS3)[0]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return joints_BK2

    return run_once


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
