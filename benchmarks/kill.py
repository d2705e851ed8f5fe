"""Kill caching with SIGKILL at random moments, and check what is left.

    python benchmarks/kill.py --kills 100

A toy teacher fills a store in a forked process (which need not start an interpreter). The process
is killed, the store examined, and the process started again, until the store is finished and
compared byte for byte with one that was written without interruption; then the next store is begun,
until all kills are used up. Three counts must be 0: files under their final names that differ from
the uninterrupted store's ("torn"), complete shards that a kill lost, and finished stores that
differ.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _common import CPU, make_parser, use_one_core, write_results

from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import coverage, open_storage
from fpd.pipeline.store.manifest import stored_layout
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, teacher

TOY_MODEL = {"stages": 1, "channels": 8, "stem": "ports"}
TOY_RECIPE: dict[str, Any] = {
    "data": {"reader": "synthetic", "synthetic": {"train": 24, "test": 8}},
    "geometry": {"crop_px": 64},
    "teacher": {"epochs": 1, "batch_size": 8, "model": TOY_MODEL},
    "student": {"model": TOY_MODEL},
    "store": {"views": 4, "shard_samples": 4, "batch_size": 4},
    "loader": {"workers": 0},
}
TEMPORARY_SUFFIXES = (".tmp", ".partial")

FileContents = dict[str, bytes]
"""By the file's path relative to the store."""


@dataclass
class Counts:
    """What was found after the kills.

    Attributes:
        too_late: kills that found the process finished.
        temporary_files: left half-written, under temporary names.
        complete_shards: after each kill.
    """

    kills: int = 0
    too_late: int = 0
    torn_files: int = 0
    lost_shards: int = 0
    stores: int = 0
    differing_stores: int = 0
    temporary_files: int = 0
    complete_shards: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Trial:
    """A work directory with a trained teacher, and the store that it leads to.

    Attributes:
        expected: the files of the store written without interruption.
        seconds: that writing it took.
    """

    work: WorkDir
    recipe: Recipe
    expected: FileContents
    shards: int
    seconds: float


def main() -> None:
    arguments = parse_arguments()
    use_one_core()
    with tempfile.TemporaryDirectory() as folder:
        trial = prepare(Path(folder) / "work")
        counts = run_trial(trial, arguments.kills, arguments.seed)
    complete = counts.complete_shards or [0]
    print(
        f"uninterrupted: {trial.shards} shards, {len(trial.expected)} files in "
        f"{trial.seconds:.2f} s\n"
        f"kills: {counts.kills} (and {counts.too_late} that came too late)\n"
        f"complete shards after a kill: {min(complete)} to {max(complete)}, "
        f"{statistics.mean(complete):.1f} on average\n"
        f"half-written files under temporary names: {counts.temporary_files}\n"
        f"torn files under final names: {counts.torn_files}\n"
        f"complete shards lost: {counts.lost_shards}\n"
        f"stores finished: {counts.stores}, of which differ from the uninterrupted one: "
        f"{counts.differing_stores}"
    )
    write_results(arguments.json, "kill", asdict(counts), seed=arguments.seed)


def prepare(root: Path) -> Trial:
    """Train the teacher, and write the store without interruption."""
    work, recipe = WorkDir(root), apply_overrides(TOY_RECIPE, [])
    work.create()
    teacher.run(work, recipe, CPU)
    run_caching(work, recipe)
    expected = read_files(work.store)
    shards = len(stored_layout(open_storage(work.store)).tasks())
    shutil.rmtree(work.store)
    start = time.perf_counter()  # of a second run, with everything in the page cache
    run_caching(work, recipe)
    seconds = time.perf_counter() - start
    shutil.rmtree(work.store)
    return Trial(work, recipe, expected, shards, seconds)


def run_caching(work: WorkDir, recipe: Recipe, kill_after_s: float | None = None) -> bool:
    """Run caching in a forked process; returns whether it was killed before it finished."""
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


def run_trial(trial: Trial, kills: int, seed: int) -> Counts:
    """Kill, examine and continue until all kills are used up and the last store is finished."""
    work, counts, complete_shards = trial.work, Counts(), 0
    generator = random.Random(seed)
    while counts.kills < kills or work.store.exists():
        uninterrupted = counts.kills == kills
        kill_after_s = None if uninterrupted else generator.uniform(0, trial.seconds / 2)
        if run_caching(work, trial.recipe, kill_after_s):
            counts.kills += 1
            complete_shards = examine(work.store, trial.expected, counts, complete_shards)
            continue
        counts.too_late += not uninterrupted
        counts.stores += 1
        counts.differing_stores += read_files(work.store) != trial.expected
        shutil.rmtree(work.store)
        complete_shards = 0
    return counts


def examine(store: Path, expected: FileContents, counts: Counts, complete_before: int) -> int:
    """Count what a kill left behind; returns the number of complete shards."""
    contents = read_files(store)
    temporary = {name for name in contents if name.endswith(TEMPORARY_SUFFIXES)}
    counts.temporary_files += len(temporary)
    # The manifest gets its last entries when all shards exist.
    final = contents.keys() - temporary - {"zarr.json"}
    counts.torn_files += sum(contents[name] != expected.get(name) for name in final)
    storage = open_storage(store)
    complete = len(coverage(storage, stored_layout(storage)).receipts) if storage.exists() else 0
    counts.lost_shards += max(0, complete_before - complete)
    counts.complete_shards.append(complete)
    return complete


def read_files(folder: Path) -> FileContents:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=100, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    return parser.parse_args()


if __name__ == "__main__":
    main()
