"""What the benchmarks share: one core, heatmaps like a teacher's, stores, rounds, tables."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from fpd.data.augmentation import PARAMETERS
from fpd.pipeline.runtime.files import versions
from fpd.pipeline.store import CompressedHeatmaps, Shard, StoreWriter, compress, files_at

JOINTS, HEATMAP_PX = 16, 64
SIGMA_PX = 2.0
MAX_ERROR = 0.1
NOISE = 0.01  # of background, as a share of a full peak
NOISE_CELLS = 10  # noise values across a map: smooth over 6 px, as a network's background is

Results = dict[str, dict[str, float]]
"""Rows of a table: figures by column, by the row's name."""


def options(description: str | None, **more: Any) -> argparse.Namespace:
    """The command line: `--json`, and a whole-number option for each of `more` (its default)."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    for name, default in more.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{name} (default {default:,})"
        )
    return parser.parse_args()


def use_one_core() -> None:
    """Keep this process, and every thread it starts, on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def heatmaps_like_a_teachers(views: int, seed: int = 0) -> torch.Tensor:
    """Gaussians of peaks 0.05..1 over a smooth background; float32 (B, K, H, W).

    About as many bytes a view as real output takes (docs/store.md).
    """
    random = torch.Generator().manual_seed(seed)
    pixel = torch.arange(float(HEATMAP_PX))
    center_BK2 = 6 + 52 * torch.rand(views, JOINTS, 2, generator=random)
    peak_BK = 10 ** (-1.3 * torch.rand(views, JOINTS, generator=random))
    x, y = (
        torch.exp(-((pixel - center_BK2[..., axis, None]) ** 2) / (2 * SIGMA_PX**2))
        for axis in (0, 1)
    )
    noise = torch.randn(views, JOINTS, NOISE_CELLS, NOISE_CELLS, generator=random)
    smooth = torch.nn.functional.interpolate(
        noise, size=HEATMAP_PX, mode="bicubic", align_corners=True
    )
    gaussians = y[..., :, None] * x[..., None, :] * peak_BK[..., None, None]
    return (gaussians + NOISE * smooth).clamp_min(0)


class Content:
    """Any number of encoded views, each dealt from a pool of encoded maps."""

    def __init__(self, pool_views: int = 512) -> None:
        parts = [
            compress(heatmaps_like_a_teachers(32, seed), MAX_ERROR)
            for seed in range(pool_views // 32)
        ]
        self.pool = CompressedHeatmaps(
            *(torch.cat(column).flatten(0, 1).numpy() for column in zip(*parts, strict=True))
        )

    def shard(self, view: int, shard: int, rows: Sequence[int]) -> Shard:
        """The content of one shard; the same every time."""
        random = np.random.default_rng((view, shard))
        dealt = random.integers(len(self.pool.peaks), size=(len(rows), JOINTS))
        coefficients, steps, peaks = (column[dealt] for column in self.pool)
        parameters = random.normal(size=(len(rows), len(PARAMETERS)))
        return Shard(view, shard, coefficients, steps, peaks, parameters, measured={"max_error": 0})


def manifest(samples: int, shard_samples: int) -> dict[str, Any]:
    """The least that makes a store of 16 joints and 64 x 64 heatmaps."""
    return {
        "datasets": [{"name": "benchmark", "samples": samples}],
        "joints": [f"joint {number}" for number in range(JOINTS)],
        "geometry": {"heatmap_px": HEATMAP_PX},
        "shard_samples": shard_samples,
        "max_error": MAX_ERROR,
    }


def new_store(folder: Path, views: int, samples: int, shard_samples: int) -> StoreWriter:
    """An empty store."""
    wanted = manifest(samples, shard_samples)
    return StoreWriter(files_at(folder), wanted, views, folder.parent)


def rates(
    cases: dict[str, Callable[[int], int]], rounds: int, at_least_s: float = 0.0
) -> dict[str, list[float]]:
    """Units a second of each case, round by round, the cases taking turns within a round.

    Args:
        cases: each does some work, given a number that differs from call to call, and returns how
            many units that was. Called once before it counts, then at least once a round.
        at_least_s: how long a case goes on within a round.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-1, rounds):
        for name, work in cases.items():
            units, calls, start = 0, 0, time.perf_counter()
            while not calls or time.perf_counter() - start < at_least_s:
                units += work((number + 1) * 1_000_000 + calls)
                calls += 1
            if number >= 0:
                found[name].append(units / (time.perf_counter() - start))
    return found


def medians(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items()}


def number(value: float) -> str:
    """A figure in four digits or so."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in columns, the first one to the left."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [line[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)
        ]
        print("  ".join(cells).rstrip())
    sys.stdout.flush()


def write_json(path: Path | None, name: str, results: Any, **about: Any) -> None:
    """Keep figures for a machine to read."""
    if path is not None:
        content = {"benchmark": name, "versions": versions(), **about, "results": results}
        path.write_text(json.dumps(content, indent=2) + "\n")
