"""Beside the stages: what finished models cost on this machine.

    fpd profile -w work/demo
    fpd profile -w work/demo --name student --batch 64 --device cuda --json

In: models' folders. Out: numbers.

Time is of `Deployable`, from uint8 crops on the device to joints. On CUDA a run ends when the
device has finished; that part has no test, for want of such a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..pipeline.config.recipe import Recipe
from ..pipeline.models.checkpoint import TrainedModel, load_model
from ..pipeline.models.complexity import count
from ..pipeline.models.export.deployable import Deployable
from ..pipeline.runtime.files import versions
from ..pipeline.runtime.memory import peak_bytes
from ..pipeline.runtime.timing import interleaved
from ..pipeline.workdir import WorkDir

WARM_UP, ROUNDS, RUNS = 3, 6, 5


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    names: Sequence[str] = (),
    batch: int = 32,
) -> dict[str, Any]:
    """Profile models side by side.

    Args:
        names: of their folders; none: all that are finished.
        batch: the larger of the two batch sizes that are timed; the other one is 1.

    Returns:
        "models" by name, "batch", "device", "threads", "versions".

    Raises:
        ValueError: there is no such model, or none at all.
    """
    names = names or list(work.models())
    if not names:
        raise ValueError(f"{work.root} has no finished model: run `fpd run all -w {work.root}`")
    models = {name: load_model(work.model(name), device) for name in names}
    sizes = sorted({1, batch})
    rows: dict[str, Any] = {name: _size(trained) for name, trained in models.items()}
    for size in sizes:
        tasks = {name: _pass(trained, size, device) for name, trained in models.items()}
        for name, task in tasks.items():
            weights = rows[name]["weights_bytes"]
            rows[name]["batches"][str(size)] = {"peak_bytes": peak_bytes(task, device, weights)}
        spreads = interleaved(tasks, warmup_fraction=WARM_UP, rounds=ROUNDS, runs=RUNS)
        for name, spread in spreads.items():
            rows[name]["batches"][str(size)] |= asdict(spread)
    return {
        "models": rows,
        "batch": batch,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _size(trained: TrainedModel) -> dict[str, Any]:
    crop_px = trained.geometry.crop_px
    parameters, gmacs = count(trained.model, trained.skeleton.num_joints, crop_px)
    tensors = trained.network.state_dict().values()
    return {
        "parameters": parameters,
        "gmacs": gmacs,
        "crop_px": crop_px,
        "weights_bytes": sum(t.numel() * t.element_size() for t in tensors),
        "batches": {},
    }


def _pass(trained: TrainedModel, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """A pass over the same random crops, done when it returns."""
    side = trained.geometry.crop_px
    module = Deployable(trained)
    crops = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=device)

    def run_once() -> Tensor:
        with torch.inference_mode():
            joints: Tensor = module(crops)[0]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return joints

    return run_once


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
