"""SIGKILL while heatmaps are cached, at random moments: what survives?

    python benchmarks/kill.py --kills 100

A toy teacher caches a store in a forked process (no interpreter to start anew), which is killed,
looked at, and started again, until the store is finished and compared byte for byte with one that
nobody disturbed; then the next store, until all kills are spent. Printed are files that bore their
final name and were not what the undisturbed store has (must be 0), complete shards that a kill lost
(must be 0), and finished stores that differ (must be 0).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _common import options, use_one_core, write_json

from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import coverage, files_at
from fpd.pipeline.store.manifest import stored_layout
from fpd.pipeline.store.storage import LocalFiles
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, teacher

SMALL = {"stages": 1, "channels": 8, "stem": "ports"}
TOY: dict[str, Any] = {
    "data": {"reader": "synthetic", "synthetic": {"train": 24, "test": 8}},
    "geometry": {"crop_px": 64},
    "teacher": {"epochs": 1, "batch_size": 8, "model": SMALL},
    "student": {"model": SMALL},
    "store": {"views": 4, "shard_samples": 4, "batch_size": 4},
    "loader": {"workers": 0},
}
HALF_WRITTEN = (".tmp", ".partial")
CPU = torch.device("cpu")


@dataclass
class Survey:
    """What was found after the kills."""

    kills: int = 0
    finished_first: int = 0  # the process was done before its kill
    torn: int = 0
    lost: int = 0
    differing: int = 0
    stores: int = 0
    leftovers: int = 0
    complete: list[int] = field(default_factory=list)  # shards, after each kill


def content(path: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def cache(work: WorkDir, recipe: Recipe, kill_after_s: float | None) -> bool:
    """Cache in a forked process; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            heatmaps.run(work, recipe, CPU)
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"caching ended with status {status}")
    return status != 0


def look(store: Path, whole: dict[str, bytes], survey: Survey, complete: int) -> int:
    """Count what a kill left; returns the complete shards."""
    found = content(store)
    half_written = {name for name in found if name.endswith(HALF_WRITTEN)}
    survey.leftovers += len(half_written)
    # The manifest gets its last entry, the errors measured, when all shards are there.
    finals = found.keys() - half_written - {"zarr.json"}
    survey.torn += sum(found[name] != whole.get(name) for name in finals)
    files = files_at(store)
    now = 0
    if files.exists():
        now = len(coverage(files, stored_layout(files)).receipts)
    survey.lost += max(0, complete - now)
    survey.complete.append(now)
    return now


def disturb(
    work: WorkDir, recipe: Recipe, whole: dict[str, bytes], took_s: float, kills: int, seed: int
) -> Survey:
    """Kill, look and go on, as often as asked, and finish every store that was begun."""
    survey, moments, complete = Survey(), random.Random(seed), 0
    shutil.rmtree(work.store, ignore_errors=True)
    while survey.kills < kills or work.store.exists():
        last = survey.kills == kills
        killed = cache(work, recipe, None if last else moments.uniform(0, took_s / 2))
        if killed:
            survey.kills += 1
            complete = look(work.store, whole, survey, complete)
            continue
        survey.finished_first += not last
        survey.stores += 1
        survey.differing += content(work.store) != whole
        shutil.rmtree(work.store)
        complete = 0
    return survey


def main() -> None:
    """Make an undisturbed store, then disturb others."""
    arguments = options(__doc__, kills=100, seed=0)
    use_one_core()
    with tempfile.TemporaryDirectory() as folder:
        work, recipe = WorkDir(Path(folder) / "work"), apply_overrides(TOY, [])
        work.create()
        teacher.run(work, recipe, CPU)
        cache(work, recipe, None)
        whole = content(work.store)
        shutil.rmtree(work.store)
        start = time.perf_counter()
        cache(work, recipe, None)
        took_s = time.perf_counter() - start
        shards = len(stored_layout(LocalFiles(work.store)).tasks())
        survey = disturb(work, recipe, whole, took_s, arguments.kills, arguments.seed)
    print(
        f"undisturbed: {shards} shards, {len(whole)} files in {took_s:.2f} s\n"
        f"kills: {survey.kills} (besides, {survey.finished_first} came too late)\n"
        f"complete shards after a kill: {min(survey.complete)} to {max(survey.complete)}, "
        f"{statistics.mean(survey.complete):.1f} in the mean\n"
        f"half-written files under temporary names: {survey.leftovers}\n"
        f"torn files under final names: {survey.torn}\n"
        f"complete shards lost: {survey.lost}\n"
        f"stores finished: {survey.stores}, of which differ from the undisturbed: "
        f"{survey.differing}"
    )
    write_json(arguments.json, "kill", vars(survey))


if __name__ == "__main__":
    main()
