"""Total cost of E epochs of S students: with cached heatmaps, and with the teacher in every step.

    python benchmarks/pipeline.py [--samples 128] [--views 2] [--epochs 6] [--students 2]
        [--threads 1] [--json OUT]

Both are run in full at a small size (synthetic samples of 128 pixels, teacher 2 x 64,
flip-averaged, student 1 x 32): once filling a store and training students from it, once running the
teacher in every step of every student. The cost model

    cached = N V c + S (u + E N s)          online = S (u + E N o)

(N samples, V views; c seconds to cache a view, s and o of a step per view, u to start a student) is
fitted to a shorter run of both, compared with the longer run, and evaluated for other E and S. The
lower bound ("floor") of a stage is its GMACs divided by the rate of one large convolution on the
same threads; training takes three times the GMACs of a forward pass. The paper's size is
extrapolated from its GMACs, at the share of that rate which the small size reached.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import (
    CPU,
    NetworkTeacher,
    OnlineObjective,
    Results,
    TimedTeacher,
    convolution_gmacs_per_s,
    hourglass,
    make_parser,
    print_results,
    synthetic_recipe,
    write_results,
)
from torch import Tensor

from fpd.data.datasets import load
from fpd.pipeline.caching.fill import fill
from fpd.pipeline.caching.inputs import StoreInputs
from fpd.pipeline.config.recipe import Recipe, fresh_views, stored_views
from fpd.pipeline.models.complexity import count
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.models.predictor import HeatmapPredictor
from fpd.pipeline.store import StoreReader, StoreWriter, make_manifest, open_storage
from fpd.pipeline.training.dataset import DistillationViews, TrainingData
from fpd.pipeline.training.objective import Batch, Losses, Objective
from fpd.pipeline.training.train import train_model

TEACHER, STUDENT, CROP_PX, BATCH_SIZE = "2x64", "1x32", 128, 8
HEATMAP_PX = CROP_PX // 4
PASSES = 2  # of the teacher per view, because it is flip-averaged
TRAINING_GMACS = 3  # of a training step, in forward passes

SHORT_RUN = {"epochs": 2, "students": 1}
# The paper: the networks of Table 1, MPII's training samples, the epochs of section 4.
PAPER_TEACHER, PAPER_STUDENT = "8x256", "4x128"
PAPER_SAMPLES, PAPER_EPOCHS, STORED_VIEWS = 22_246, 130, 4


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("fpd").setLevel(logging.ERROR)  # such short trainings do collapse
    experiment = Experiment(arguments.samples, arguments.views)
    epochs, students = arguments.epochs, arguments.students
    costs: dict[str, Cost] = {}
    measured: Results = {}
    for name, run in (("cached", experiment.run_cached), ("online", experiment.run_online)):
        short = run(**SHORT_RUN)
        costs[name] = run(epochs, students)
        measured[name] = costs[name].row(predicted_s=short.predict(epochs, students))
    print_results(f"E = {epochs}, S = {students}", measured)
    predicted = predict_others(costs["cached"], costs["online"])
    print()
    print_results("by the model", predicted)
    rate = convolution_gmacs_per_s()
    bounds = lower_bounds(experiment, costs["cached"], costs["online"], rate)
    print()
    print_results(f"floor at {rate:.0f} GMAC/s", bounds)
    paper = extrapolate_to_paper(rate, bounds)
    print()
    print_results(f"MPII, {PAPER_TEACHER} -> {PAPER_STUDENT}", paper)
    results = {"measured": measured, "model": predicted, "floors": bounds, "paper": paper}
    settings = {"threads": arguments.threads, "samples": arguments.samples}
    write_results(arguments.json, "pipeline", results, **settings)


class InStepObjective(OnlineObjective):
    """The loss of a student whose teacher runs inside the training step."""

    def __init__(self, predictor: HeatmapPredictor, recipe: Recipe) -> None:
        super().__init__(recipe.student, recipe.targets, recipe.geometry.heatmap_px)
        self.predictor = predictor

    def __call__(self, stages: Sequence[Tensor], batch: Batch) -> Losses:
        with torch.no_grad():
            heatmaps = self.predictor(batch["crop"])
        return super().__call__(stages, {**batch, "teacher": heatmaps})


@dataclass(frozen=True)
class Cost:
    """The cost of distilling some students.

    Attributes:
        fill_s: seconds to fill the store; 0 online.
        start_s: seconds that a student takes outside its epochs, mean.
        epoch_s: seconds of an epoch, median.
        teacher_passes: crops that passed through the teacher.
        store_bytes: 0 online.
    """

    fill_s: float
    start_s: float
    epoch_s: float
    total_s: float
    teacher_passes: int
    store_bytes: int

    def predict(self, epochs: int, students: int) -> float:
        """Seconds by the cost model."""
        return self.fill_s + students * (self.start_s + epochs * self.epoch_s)

    def row(self, predicted_s: float) -> dict[str, float]:
        return {
            "teacher passes": self.teacher_passes,
            "seconds": self.total_s,
            "model": predicted_s,
            "filling": self.fill_s,
            "per epoch": self.epoch_s,
            "bytes stored": self.store_bytes,
        }


class Experiment:
    """A teacher, a data set and a recipe, for running both kinds of distillation."""

    def __init__(self, samples: int, views: int) -> None:
        self.recipe = synthetic_recipe(
            samples=samples,
            crop_px=CROP_PX,
            store={
                "views": views,
                "batch_size": BATCH_SIZE,
                "shard_samples": max(1, samples // 4),
            },
            student={"model": hourglass(STUDENT).model_dump(), "batch_size": BATCH_SIZE},
            monitor={"contact_sheet_every": 0},
        )
        self.samples = load(self.recipe.data, "train")
        self.joints = self.samples.skeleton.num_joints
        teacher = TimedTeacher(hourglass(TEACHER), self.joints, BATCH_SIZE, HEATMAP_PX).eval()
        # Flip-averaged in the step, too, as stores are by default.
        source = NetworkTeacher(
            teacher.to(memory_format=torch.channels_last), self.samples.skeleton.flip_indices
        )
        self.inputs = StoreInputs(source, self.recipe, self.samples, CPU)

    def run_cached(self, epochs: int, students: int) -> Cost:
        views = self.recipe.store.views
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            start = time.perf_counter()
            writer = self._fill(folder)
            store_bytes = writer.finish().bytes()
            fill_s = time.perf_counter() - start
            reader = StoreReader(writer.storage, writer.layout)
            dataset = DistillationViews(stored_views(self.recipe, self.samples), reader)
            flip_indices = self.samples.skeleton.flip_indices
            objective = Objective(
                self.recipe.targets, HEATMAP_PX, self.recipe.student, flip_indices
            )
            data = self._training_data(dataset, views)
            seconds = self._train(folder, objective, data, epochs, students)
        return make_cost(seconds, fill_s, PASSES * views * len(self.samples), store_bytes)

    def run_online(self, epochs: int, students: int) -> Cost:
        objective = InStepObjective(self.inputs.predictor, self.recipe)
        data = self._training_data(fresh_views(self.recipe, self.samples, 0), None)
        with tempfile.TemporaryDirectory() as folder:
            seconds = self._train(Path(folder), objective, data, epochs, students)
        return make_cost(seconds, 0.0, PASSES * epochs * students * len(self.samples), 0)

    def _fill(self, folder: Path) -> StoreWriter:
        manifest = make_manifest(self.recipe, self.samples, self.inputs.teacher.entry)
        files = open_storage(folder / "heatmaps.zarr")
        writer = StoreWriter(files, manifest, self.recipe.store.views, folder)
        fill(writer, writer.layout.tasks(), self.inputs)
        return writer

    def _training_data(self, dataset: Any, views: int | None) -> TrainingData:
        return TrainingData(
            samples=self.samples,
            validation=self.samples.take([]),
            dataset=dataset,
            views=views,
            inputs={},
            flip=views is not None,
        )

    def _train(
        self, folder: Path, objective: Any, data: TrainingData, epochs: int, students: int
    ) -> list[StudentSeconds]:
        student_seconds = []
        for seed in range(students):
            training = self.recipe.student.model_copy(update={"epochs": epochs, "seed": seed})
            out, start = ModelDir(folder / f"student-{seed}"), time.perf_counter()
            train_model(out, self.recipe, training, objective, data, CPU)
            total_s = time.perf_counter() - start
            rows = [json.loads(line) for line in out.metrics.read_text().splitlines()]
            student_seconds.append(StudentSeconds(total_s, [row["seconds"] for row in rows]))
        return student_seconds


@dataclass(frozen=True)
class StudentSeconds:
    """Seconds of one student's training, in total and of each epoch."""

    total: float
    epochs: list[float]


def make_cost(
    students: list[StudentSeconds], fill_s: float, teacher_passes: int, store_bytes: int
) -> Cost:
    return Cost(
        fill_s=fill_s,
        start_s=statistics.mean(student.total - sum(student.epochs) for student in students),
        epoch_s=statistics.median(second for student in students for second in student.epochs),
        total_s=fill_s + sum(student.total for student in students),
        teacher_passes=teacher_passes,
        store_bytes=store_bytes,
    )


def predict_others(cached: Cost, online: Cost) -> Results:
    """Seconds by the cost model, for other numbers of epochs and students."""
    results: Results = {}
    for epochs in (1, 4, 10, 130):
        for students in (1, 4):
            cached_s = cached.predict(epochs, students)
            online_s = online.predict(epochs, students)
            results[f"E = {epochs}, S = {students}"] = {
                "cached, s": cached_s,
                "online, s": online_s,
                "online / cached": online_s / cached_s,
            }
    return results


def lower_bounds(experiment: Experiment, cached: Cost, online: Cost, rate: float) -> Results:
    """Of each stage: time per view, the time its GMACs take at `rate`, and their quotient."""
    teacher, student = (
        count(hourglass(size), experiment.joints, CROP_PX)[1] for size in (TEACHER, STUDENT)
    )
    samples, views = len(experiment.samples), experiment.recipe.store.views
    training = TRAINING_GMACS * student
    stages = {
        "caching": (cached.fill_s / (samples * views), PASSES * teacher),
        "student, cached": (cached.epoch_s / samples, training),
        "student, online": (online.epoch_s / samples, training + PASSES * teacher),
    }
    return {
        name: {
            "ms per view": 1e3 * seconds,
            "GMACs": gmacs,
            "floor, ms": 1e3 * gmacs / rate,
            "floor, %": 100 * gmacs / rate / seconds,
        }
        for name, (seconds, gmacs) in stages.items()
    }


def extrapolate_to_paper(rate: float, bounds: Results) -> Results:
    """Hours at the paper's size, if each stage reaches the share of its floor measured here."""
    teacher, student = (
        count(hourglass(size), 16, 256)[1] for size in (PAPER_TEACHER, PAPER_STUDENT)
    )
    gmacs_per_hour = {
        stage: 3600 * rate * bound["floor, %"] / 100 for stage, bound in bounds.items()
    }
    results: Results = {}
    for students in (1, 4):
        trained_views = PAPER_SAMPLES * PAPER_EPOCHS * students
        for passes in (1, 2):
            caching = PAPER_SAMPLES * STORED_VIEWS * passes * teacher
            training = trained_views * TRAINING_GMACS * student
            online = training + trained_views * passes * teacher
            caching_h = caching / gmacs_per_hour["caching"]
            cached_h = caching_h + training / gmacs_per_hour["student, cached"]
            online_h = online / gmacs_per_hour["student, online"]
            results[f"{students} student(s), {passes} pass(es) per view"] = {
                "cached, h": cached_h,
                "of which caching, h": caching_h,
                "online, h": online_h,
                "online / cached": online_h / cached_h,
                "by GMACs": online / (caching + training),
            }
    return results


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--samples", type=int, default=128, help="training samples")
    parser.add_argument("--views", type=int, default=2, help="stored views of each sample")
    parser.add_argument("--epochs", type=int, default=6, help="of each student")
    parser.add_argument("--students", type=int, default=2, help="number of students")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
