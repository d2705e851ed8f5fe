"""Shared by the benchmarks: options, synthetic heatmaps and stores, timing in turns, tables.

Shape letters: B views, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from fpd.data.augmentation import PARAMETERS
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.config.sections import Student, Targets
from fpd.pipeline.models.checkpoint import to_device
from fpd.pipeline.models.predictor import HeatmapPredictor, make_predictor
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.runtime.files import versions
from fpd.pipeline.runtime.text import align
from fpd.pipeline.store import Shard, StoreWriter, compress, open_storage
from fpd.pipeline.store.schema import SCHEMA_VERSION
from fpd.pipeline.training.losses import distillation_loss
from fpd.pipeline.training.objective import Batch, Losses, Objective, amplitude_factors

CPU = torch.device("cpu")
JOINTS, HEATMAP_PX = 16, 64
SIGMA_PX = 2.0
MAX_ERROR = 0.1
NOISE = 0.01  # amplitude of the background, as a share of a full peak
NOISE_POINTS = 10  # noise values across a heatmap: smooth over 6 px, as a network's background is

Results = dict[str, dict[str, float]]
"""A table: the values of each row by column, by the row's name."""

Case = Callable[[int], int]
"""Work to time: takes a number that differs from call to call, returns the units processed."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the description's lines, and states the defaults of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


@dataclass(frozen=True)
class NetworkTeacher:
    """A network that fills a store.

    Attributes:
        flip_indices: as of `make_predictor`.
    """

    network: nn.Module
    flip_indices: tuple[int, ...] | None = None

    @property
    def entry(self) -> dict[str, Any]:
        return {"sha256": "0" * 64}

    def predictor(self, device: torch.device) -> HeatmapPredictor:
        return make_predictor(to_device(self.network, device), device, self.flip_indices)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with `--json`, to which each benchmark adds its own options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser


def use_one_core() -> None:
    """Pin this process, and all threads and processes that it starts, to one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def process_memory_kib(field: str) -> int:
    """A memory figure of this process from Linux's `/proc/self/status`, such as "VmRSS"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def hourglass(size: str) -> HourglassSettings:
    """The network of a size such as "8x256": 8 stages of 256 channels."""
    stages, channels = (int(number) for number in size.split("x"))
    return HourglassSettings(stages=stages, channels=channels)


def teacher_like_heatmaps(views: int, seed: int = 0) -> Tensor:
    """Gaussians with peaks of 0.05 to 1 over a smooth background; float32 (B, K, H, W).

    They take about as many bytes per view as the output of real teachers (docs/store.md).
    """
    random = torch.Generator().manual_seed(seed)
    pixel = torch.arange(float(HEATMAP_PX))
    center_BK2 = 6 + 52 * torch.rand(views, JOINTS, 2, generator=random)
    peak_BK = 10 ** (-1.3 * torch.rand(views, JOINTS, generator=random))
    x, y = (
        torch.exp(-((pixel - center_BK2[..., axis, None]) ** 2) / (2 * SIGMA_PX**2))
        for axis in (0, 1)
    )
    noise = torch.randn(views, JOINTS, NOISE_POINTS, NOISE_POINTS, generator=random)
    background = torch.nn.functional.interpolate(
        noise, size=HEATMAP_PX, mode="bicubic", align_corners=True
    )
    gaussians = y[..., :, None] * x[..., None, :] * peak_BK[..., None, None]
    return (gaussians + NOISE * background).clamp_min(0)


class TimedTeacher(nn.Module):
    """A network that takes its usual time, but outputs heatmaps like a trained teacher's.

    An untrained network's own heatmaps would take an untypical number of bytes.
    """

    def __init__(
        self, model: HourglassSettings, joints: int, batch_size: int, heatmap_px: int
    ) -> None:
        """Batches may have up to `batch_size` crops."""
        super().__init__()
        self.network = model.build(joints)
        heatmaps = teacher_like_heatmaps(batch_size)[:, :joints, :heatmap_px, :heatmap_px]
        self.heatmaps_BKHW: Tensor
        self.register_buffer("heatmaps_BKHW", heatmaps)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        self.network(inputs)
        return [self.heatmaps_BKHW[: len(inputs)]]


class OnlineObjective:
    """Eq. 5 with the teacher run in the step: `batch["teacher"]`, float32 (B, K, H, W)."""

    def __init__(self, student: Student, targets: Targets, heatmap_px: int) -> None:
        self.student = student
        self.labels = Objective(targets, heatmap_px)

    def __call__(self, stages: Sequence[Tensor], batch: Batch) -> Losses:
        labels, weights = self.labels.encode_labels(batch, stages[-1].device)
        heatmaps = batch["teacher"]
        factors = amplitude_factors(heatmaps.detach().amax((-2, -1)), self.student)
        target = heatmaps * factors[..., None, None]
        loss = distillation_loss(stages, labels, weights, target, self.student.alpha).loss
        return Losses(loss, loss.detach())


def synthetic_recipe(
    *, samples: int, crop_px: int, store: Mapping[str, Any], **sections: Mapping[str, Any]
) -> Recipe:
    """A recipe on synthetic samples, none of them held out for validation."""
    data = {
        "reader": "synthetic",
        "validation": 0.0,
        "synthetic": {"train": samples, "test": 1},
    }
    tree = {"data": data, "geometry": {"crop_px": crop_px}, "store": dict(store), **sections}
    return apply_overrides(tree, [])


class ShardFactory:
    """Makes any number of shards, whose heatmaps are drawn from a pool of encoded ones."""

    def __init__(self, pool_views: int = 512) -> None:
        batches = [
            compress(teacher_like_heatmaps(32, seed), MAX_ERROR) for seed in range(pool_views // 32)
        ]
        self.coefficients, self.steps, self.peaks = (
            torch.cat(column).flatten(0, 1).numpy() for column in zip(*batches, strict=True)
        )

    def make(self, view: int, shard: int, rows: Sequence[int]) -> Shard:
        """The content of one shard; the same for the same arguments."""
        random = np.random.default_rng((view, shard))
        drawn = random.integers(len(self.peaks), size=(len(rows), JOINTS))
        return Shard(
            view=view,
            shard=shard,
            heatmaps_SKYXC=self.coefficients[drawn],
            steps_SK=self.steps[drawn],
            peaks_SK=self.peaks[drawn],
            parameters_SP=random.normal(size=(len(rows), len(PARAMETERS))),
            encoding_error={"max_error": 0},
        )


def minimal_manifest(samples: int, shard_samples: int) -> dict[str, Any]:
    """The least that a store of 16 joints and 64 x 64 heatmaps needs."""
    return {
        "schema": SCHEMA_VERSION,
        "teacher": {"sha256": "0" * 64},
        "datasets": [{"name": "benchmark", "samples": samples}],
        "joints": [f"joint {number}" for number in range(JOINTS)],
        "geometry": {"heatmap_px": HEATMAP_PX},
        "shard_samples": shard_samples,
        "max_error": MAX_ERROR,
    }


def make_store(folder: Path, views: int, samples: int, shard_samples: int) -> StoreWriter:
    """Create an empty store, or open the one that exists."""
    manifest = minimal_manifest(samples, shard_samples)
    return StoreWriter(open_storage(folder), manifest, views, folder.parent)


def convolution_gmacs_per_s(
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    batch: int = 2,
    min_seconds: float = 2.0,
) -> float:
    """The rate of a 3 x 3 convolution of 256 channels at 64 x 64, on all threads of PyTorch."""
    layer = nn.Conv2d(256, 256, 3, padding=1)
    layer.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    images = torch.rand(batch, 256, 64, 64, device=device, dtype=dtype)
    images = images.to(memory_format=torch.channels_last)
    gmacs = batch * 256 * 256 * 9 * 64 * 64 / 1e9
    timer = Timer("layer(images)", globals=locals(), num_threads=torch.get_num_threads())
    with torch.inference_mode():
        return gmacs / timer.blocked_autorange(min_run_time=min_seconds).median


def product_gmacs_per_s(
    device: torch.device, dtype: torch.dtype, side: int = 8192, min_seconds: float = 1.0
) -> float:
    """The rate of the product of two square matrices of random numbers."""
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    timer = Timer("a @ b", globals=locals(), num_threads=torch.get_num_threads())
    return side**3 / 1e9 / timer.blocked_autorange(min_run_time=min_seconds).median


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_rates(
    cases: Mapping[str, Case], rounds: int, min_seconds: float = 0.0
) -> dict[str, list[float]]:
    """Units per second of each case and round; the cases take turns within a round.

    The machine's speed changes over minutes, so only rates of the same round can be compared.

    Args:
        cases: each is called once for warming up, then at least once per round.
        min_seconds: a case is repeated within a round until this much time has passed.
    """
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-1, rounds):
        for name, work in cases.items():
            units, calls, start = 0, 0, time.perf_counter()
            while not calls or time.perf_counter() - start < min_seconds:
                units += work((number + 1) * 1_000_000 + calls)
                calls += 1
            if number >= 0:
                rates[name].append(units / (time.perf_counter() - start))
    return rates


def medians(rates: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in rates.items()}


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def format_number(value: float) -> str:
    """A number in about three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns, the first one left-aligned."""
    print(align([list(head), *map(list, rows)]), flush=True)


def print_results(heading: str, results: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of numbers.

    Args:
        heading: of the first column, which has the rows' names.
        results: rows with the same columns in the same order.
    """
    columns = list(next(iter(results.values())))
    rows = [[name, *map(format_number, row.values())] for name, row in results.items()]
    print_table([heading, *columns], rows)


def write_results(path: Path | None, benchmark: str, results: Any, **settings: Any) -> None:
    """Write results as JSON, with versions and the settings they were measured with."""
    if path is not None:
        content = {
            "benchmark": benchmark,
            "versions": versions(),
            **settings,
            "results": results,
        }
        path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
