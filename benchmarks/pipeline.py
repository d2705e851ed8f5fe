"""The whole bill: E epochs of S students from a cache, and with the teacher in every step.

    python benchmarks/pipeline.py [--people 128] [--views 2] [--epochs 6] [--students 2]
        [--threads 1] [--json OUT]

Both ways are run for real, at a small size (drawn people of 128 pixels, teacher 2 x 64, student
1 x 32, the teacher averaged with its mirrored twin): once with `cache-heatmaps` and students from
the store, once with the teacher asked in every step of every student. The cost model

    cached = N V c + S (u + E N s)          online = S (u + E N o)

(N people, V views; seconds c to cache a view, s and o of a step's view, u to start a student) is
fitted to a shorter run of both, compared with the longer one, and then used for other E and S. The
floors are GMACs over the rate of one large convolution on the same threads, measured between the
two; training takes three times a forward pass's. The paper's size is extrapolated from GMACs at the
share of that rate which the small size reached.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import number, options, print_table, write_json
from step import Online, model
from store_write import Teacher
from torch import Tensor, nn

from fpd.data.datasets import load
from fpd.pipeline.caching.fill import fill
from fpd.pipeline.config.recipe import Recipe, apply_overrides, fresh_views, stored_views
from fpd.pipeline.config.sections import Student
from fpd.pipeline.models.checkpoint import ModelDir
from fpd.pipeline.models.complexity import count
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.store import StoreReader, StoreWriter, files_at, make_manifest
from fpd.pipeline.training.dataset import DistillationViews
from fpd.pipeline.training.objective import Batch, Losses, Objective
from fpd.pipeline.training.train import train_model

CPU = torch.device("cpu")
TEACHER, STUDENT, CROP_PX, BATCH = "2x64", "1x32", 128, 8
PASSES = 2  # of the teacher a view: averaged with its mirrored twin

# The paper: teacher and student of Table 1, MPII's people, section 4's epochs; four stored views.
PAPER = {"teacher": "8x256", "student": "4x128", "people": 22_246, "epochs": 130, "views": 4}


class Asking(Online):
    """The loss with the teacher asked in the step."""

    def __init__(self, teacher: nn.Module, student: Student, heatmap_px: int, joints: int) -> None:
        super().__init__(student, heatmap_px)
        self.predictor = make_predictor(
            teacher, CPU, tuple(range(joints))
        )  # any pairing costs the same

    def __call__(self, stages: list[Tensor], batch: Batch) -> Losses:
        with torch.no_grad():
            said = self.predictor(batch["crop"])
        return super().__call__(stages, {**batch, "teacher": said})


@dataclass(frozen=True)
class Bill:
    """What one way took.

    Attributes:
        fill_s: seconds to fill the store; 0 online.
        start_s: seconds of a student besides its epochs, in the mean.
        epoch_s: median seconds of an epoch.
        bytes: of the store.
    """

    fill_s: float
    start_s: float
    epoch_s: float
    total_s: float
    passes: int
    bytes: int

    def predict(self, epochs: int, students: int) -> float:
        """Seconds by the cost model."""
        return self.fill_s + students * (self.start_s + epochs * self.epoch_s)


class Way:
    """One data set, teacher and recipe, to be paid for one way or the other."""

    def __init__(self, people: int, views: int) -> None:
        self.recipe = recipe_for(people, views)
        self.samples = load(self.recipe.data, "train")
        joints = self.samples.skeleton.num_joints
        # Its answers look like a trained teacher's, and take as long as an untrained one's.
        teacher = Teacher(model(TEACHER), joints).eval()
        teacher.answer_BKHW = teacher.answer_BKHW[..., : CROP_PX // 4, : CROP_PX // 4]
        self.teacher = teacher.to(memory_format=torch.channels_last)

    def cached(self, epochs: int, students: int, folder: Path) -> Bill:
        views, people = self.recipe.store.views, len(self.samples)
        start = time.perf_counter()
        files = files_at(folder / "heatmaps.zarr")
        manifest = make_manifest(self.recipe, self.samples, "0" * 64)
        writer = StoreWriter(files, manifest, views, folder)
        mirror = self.samples.skeleton.flip_indices if self.recipe.flip_averaged else None
        predictor = make_predictor(self.teacher, CPU, mirror)
        fill(writer, writer.layout.tasks(), predictor, self.recipe, self.samples, CPU)
        size = writer.finish().bytes()
        fill_s = time.perf_counter() - start
        reader = StoreReader(files, writer.layout)
        dataset = DistillationViews(stored_views(self.recipe, self.samples), reader)
        objective = Objective(
            self.recipe.targets,
            CROP_PX // 4,
            self.recipe.student,
            self.samples.skeleton.flip_indices,
        )
        trained = self._train(objective, dataset, views, epochs, students, folder)
        return self._bill(fill_s, trained, epochs, PASSES * views * people, size)

    def online(self, epochs: int, students: int, folder: Path) -> Bill:
        joints = self.samples.skeleton.num_joints
        objective = Asking(self.teacher, self.recipe.student, CROP_PX // 4, joints)
        dataset = fresh_views(self.recipe, self.samples, 0)
        trained = self._train(objective, dataset, None, epochs, students, folder)
        passes = PASSES * epochs * students * len(self.samples)
        return self._bill(0.0, trained, epochs, passes, 0)

    def _train(
        self,
        objective: Any,
        dataset: Any,
        views: int | None,
        epochs: int,
        students: int,
        folder: Path,
    ) -> list[tuple[float, list[float]]]:
        """Seconds of each student, and of its epochs."""
        found = []
        people = {"train": self.samples, "validation": self.samples.take([])}
        for seed in range(students):
            training = self.recipe.student.model_copy(update={"epochs": epochs, "seed": seed})
            out, start = ModelDir(folder / f"student-{seed}"), time.perf_counter()
            train_model(
                *(out, self.recipe, training, objective, dataset, people, views, {}, CPU),
                mirror=views is not None,
            )
            seconds = time.perf_counter() - start
            found.append((seconds, epoch_seconds(out)))
        return found

    def _bill(
        self,
        fill_s: float,
        trained: list[tuple[float, list[float]]],
        epochs: int,
        passes: int,
        size: int,
    ) -> Bill:
        start_s = statistics.mean(total - sum(each) for total, each in trained)
        epoch_s = statistics.median(second for _, each in trained for second in each)
        total_s = fill_s + sum(total for total, _ in trained)
        return Bill(fill_s, start_s, epoch_s, total_s, passes, size)


def epoch_seconds(out: ModelDir) -> list[float]:
    return [json.loads(line)["seconds"] for line in out.metrics.read_text().splitlines()]


def recipe_for(people: int, views: int) -> Recipe:
    """Drawn people, none held out."""
    student = {"model": model(STUDENT).model_dump(), "batch": BATCH}
    return apply_overrides(
        {
            "data": {
                "reader": "synthetic",
                "validation": 0.0,
                "synthetic": {"train": people, "test": 1},
            },
            "geometry": {"crop_px": CROP_PX},
            "store": {"views": views, "batch": BATCH, "shard_samples": max(1, people // 4)},
            "student": student,
        },
        [],
    )


def gmacs_per_s(seconds: float = 2.0) -> float:
    """The rate of a 3 x 3 convolution of 256 channels at 64 x 64: the floor's divisor."""
    layer = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.rand(2, 256, 64, 64).to(memory_format=torch.channels_last)
    each = 2 * 256 * 256 * 9 * 64 * 64 / 1e9
    rates = []
    with torch.inference_mode():
        layer(images)
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            start = time.perf_counter()
            layer(images)
            rates.append(each / (time.perf_counter() - start))
    return statistics.median(rates)


def floors(way: Way, cached: Bill, online: Bill, rate: float) -> dict[str, dict[str, float]]:
    """Of each stage, a view: what it takes, what its GMACs take at `rate`, and the share."""
    joints = way.samples.skeleton.num_joints
    teacher, student = (count(model(size), joints, CROP_PX)[1] for size in (TEACHER, STUDENT))
    people, views = len(way.samples), way.recipe.store.views
    rows = {
        "caching": (cached.fill_s / (people * views), PASSES * teacher),
        "student, cached": (cached.epoch_s / people, 3 * student),
        "student, online": (online.epoch_s / people, 3 * student + PASSES * teacher),
    }
    return {
        name: {
            "ms a view": 1e3 * seconds,
            "GMACs": gmacs,
            "floor, ms": 1e3 * gmacs / rate,
            "floor, %": 100 * gmacs / rate / seconds,
        }
        for name, (seconds, gmacs) in rows.items()
    }


def paper_hours(rate: float, share: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The paper's size: hours at the rate and the share of it that the small size reached."""
    teacher, student = (count(model(PAPER[key]), 16, 256)[1] for key in ("teacher", "student"))
    people, epochs, views = PAPER["people"], PAPER["epochs"], PAPER["views"]
    rows = {}
    for students in (1, 4):
        seen = people * epochs * students
        for passes in (1, 2):
            once = people * views * passes * teacher / share["caching"]["floor, %"]
            trained = seen * 3 * student / share["student, cached"]["floor, %"]
            asked = seen * (3 * student + passes * teacher) / share["student, online"]["floor, %"]
            to_hours = 100 / rate / 3600
            rows[f"{students} student(s), {passes} pass(es) a view"] = {
                "cached, h": (once + trained) * to_hours,
                "of it caching, h": once * to_hours,
                "online, h": asked * to_hours,
                "online / cached": asked / (once + trained),
                "by GMACs": seen
                * (3 * student + passes * teacher)
                / (seen * 3 * student + people * views * passes * teacher),
            }
    return rows


def show(rows: dict[str, dict[str, float]], first: str) -> None:
    columns = list(next(iter(rows.values())))
    print_table(
        [first, *columns],
        [[name, *(number(row[column]) for column in columns)] for name, row in rows.items()],
    )
    print()


def main() -> None:
    given = options(__doc__, people=128, views=2, epochs=6, students=2, threads=1)
    torch.set_num_threads(given.threads)
    logging.getLogger("fpd").setLevel(logging.ERROR)  # so short a training has collapsed, yes
    way = Way(given.people, given.views)
    bills: dict[str, tuple[Bill, Bill]] = {}
    for name in ("cached", "online"):
        with tempfile.TemporaryDirectory() as short, tempfile.TemporaryDirectory() as long:
            run = getattr(way, name)
            bills[name] = run(2, 1, Path(short)), run(given.epochs, given.students, Path(long))
        rate = gmacs_per_s()
    measured = {
        name: {
            "teacher passes": bill.passes,
            "seconds": bill.total_s,
            "by the model": short.predict(given.epochs, given.students),
            "filling": bill.fill_s,
            "an epoch": bill.epoch_s,
            "bytes stored": bill.bytes,
        }
        for name, (short, bill) in bills.items()
    }
    show(measured, f"E = {given.epochs}, S = {given.students}")
    cached, online = (bills[name][1] for name in ("cached", "online"))
    more = {
        f"E = {epochs}, S = {students}": {
            "cached, s": cached.predict(epochs, students),
            "online, s": online.predict(epochs, students),
            "online / cached": online.predict(epochs, students) / cached.predict(epochs, students),
        }
        for epochs in (1, 4, 10, 130)
        for students in (1, 4)
    }
    show(more, "by the model")
    reached = floors(way, cached, online, rate)
    show(reached, f"floor at {rate:.0f} GMAC/s")
    paper = paper_hours(rate, reached)
    show(paper, "MPII, 8x256 -> 4x128")
    results = {"encoding_error": measured, "model": more, "floors": reached, "paper": paper}
    write_json(given.json, "pipeline", results, threads=given.threads, people=given.people)


if __name__ == "__main__":
    main()
