"""Beside the stages: what finished models cost on this machine.

    fpd profile -w work/demo
    fpd profile -w work/demo --name student --batch 64 --device cuda --json

In: models' folders. Out: numbers.

Time is of `Deployable`, from uint8 crops on the device to joints. On CUDA a run ends when the
device has finished; that part has no test, for want of such a device.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..pipeline.deploy.deployable import Deployable
from ..pipeline.memory import peak_bytes
from ..pipeline.models.cost import count
from ..pipeline.recipe import Recipe
from ..pipeline.report.scores import align
from ..pipeline.sizes import counted, format_bytes
from ..pipeline.timing import interleaved
from ..pipeline.trained import Trained, find_model, load_trained
from ..pipeline.workdir import WorkDir, versions

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
    models = {name: load_trained(find_model(work, name), recipe, device) for name in names}
    sizes = sorted({1, batch})
    rows: dict[str, Any] = {name: _size(trained) for name, trained in models.items()}
    for size in sizes:
        tasks = {name: _pass(trained, size, device) for name, trained in models.items()}
        for name, task in tasks.items():
            weights = rows[name]["weights_bytes"]
            rows[name]["batches"][str(size)] = {"peak_bytes": peak_bytes(task, device, weights)}
        spreads = interleaved(tasks, warm_up=WARM_UP, rounds=ROUNDS, runs=RUNS)
        for name, spread in spreads.items():
            rows[name]["batches"][str(size)] |= asdict(spread)
    return {
        "models": rows,
        "batch": batch,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _size(trained: Trained) -> dict[str, Any]:
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


def _pass(trained: Trained, batch: int, device: torch.device) -> Callable[[], Tensor]:
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


def describe(report: dict[str, Any]) -> str:
    """The models side by side; times as the median and, in brackets, the quartiles."""
    batch = report["batch"]
    rows = [
        [
            *("model", "params", "GMACs", "weights", "peak at 1", "ms at 1", ""),
            *(f"peak at {batch}", f"ms a crop at {batch}", ""),
        ]
    ]
    for name, row in report["models"].items():
        one, many = row["batches"]["1"], row["batches"][str(batch)]
        rows.append(
            [
                name,
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['gmacs']:.3f}",
                format_bytes(row["weights_bytes"]),
                format_bytes(one["peak_bytes"]),
                *_time(one, 1),
                format_bytes(many["peak_bytes"]),
                *_time(many, batch),
            ]
        )
    runs = statistics.median(r["batches"]["1"]["runs"] for r in report["models"].values())
    return "\n".join(
        [
            f"on {report['device']}, {counted(report['threads'], 'thread')}: crops to joints, "
            f"median (and quartiles) of {runs:g} runs, the models in turn",
            align(rows),
            "peak: weights and what a pass holds at once"
            + ("" if report["device"].startswith("cuda") else ", without convolutions' workspace"),
        ]
    )


def _time(spread: dict[str, Any], batch: int) -> list[str]:
    median, lower, upper = (spread[key] / batch for key in ("median_ms", "lower_ms", "upper_ms"))
    return [f"{median:.2f}", f"({lower:.2f}-{upper:.2f})"]
