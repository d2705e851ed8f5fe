"""The paper's question at the paper's size: a teacher of 8 x 256 and students of 4 x 128 on LSP.

    python benchmarks/paper.py [--data FOLDER] [--work FOLDER] [--minutes 7] [--teacher-epochs 14]
        [--student-epochs 20] [--set KEY=VALUE ...] [--device cpu|cuda] [--json OUT]

All four stages with the recipe `lsp-gpu`, one after another in this process, at a schedule that
fits into the time: the teacher, its store, the first two students, and the others in this order as
long as there is time for the next one (and for scoring all of them):

    labels              on labels alone
    both                on labels and teacher (alpha 0.5)
    labels-equal-time   on labels alone, for the time that teacher, store and `both` take together
    teacher-alone       on the teacher alone (alpha 1)
    both-continued      on labels and teacher, from the weights of `labels`
    labels-continued    the same without the teacher
    labels-mse          on labels alone, with the paper's loss, squared error
    both-mse            on labels and teacher, with the paper's loss

Without `--data`, samples are synthetic. The results are written after each of them; the folder
`evaluation` in the work directory has the report.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from _common import format_number, make_parser, write_results

from fpd.pipeline.config.recipe import Recipe, load_recipe
from fpd.pipeline.models.checkpoint import ModelDir
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, heatmaps, student, teacher

STUDENTS: dict[str, dict[str, Any]] = {
    "labels": {"alpha": 0.0},
    "both": {"alpha": 0.5},
    "labels-equal-time": {"alpha": 0.0},
    "teacher-alone": {"alpha": 1.0},
    "both-continued": {"alpha": 0.5, "init_from": "labels"},
    "labels-continued": {"alpha": 0.0, "init_from": "labels"},
    "labels-mse": {"alpha": 0.0, "loss": "mse"},
    "both-mse": {"alpha": 0.5, "loss": "mse"},
}
EVALUATION_SECONDS = 25.0
"""Kept free at the end, for scoring."""

SYNTHETIC = ("data.reader=synthetic", "data.synthetic.train=16", "data.synthetic.test=4")


def main() -> None:
    arguments = parse_arguments()
    paper = Paper(arguments)
    paper.run("teacher", lambda: teacher.run(paper.work, paper.recipe, paper.device))
    paper.run("store", lambda: heatmaps.run(paper.work, paper.recipe, paper.device))
    for name in STUDENTS:
        if name == "labels-equal-time":
            paper.set_equal_time()
        if paper.seconds_left() > paper.expected_seconds(name):
            paper.train(name)
        else:
            print(f"{name}: no time left", flush=True)
    paper.run("evaluation", lambda: evaluate.run(paper.work, paper.recipe, paper.device))
    paper.add_scores()
    paper.write()


class Paper:
    """The runs so far.

    Attributes:
        results: by name of a stage or a student: "seconds", and what is known of a model.
        recipe: has all students in its table `students`.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.start = time.perf_counter()
        self.device = torch.device(arguments.device)
        self.work = WorkDir(arguments.work or Path(tempfile.mkdtemp()) / "work")
        self.recipe = self._make_recipe(arguments)
        self.work.keep(self.recipe)
        self.results: dict[str, dict[str, float]] = {}

    def _make_recipe(self, arguments: argparse.Namespace) -> Recipe:
        data = SYNTHETIC if arguments.data is None else (f"data.root={arguments.data}",)
        students = (
            f"students.{name}.{key}={json.dumps(value)}"
            for name, settings in STUDENTS.items()
            for key, value in settings.items()
        )
        epochs = (
            f"teacher.epochs={arguments.teacher_epochs}",
            f"student.epochs={arguments.student_epochs}",
        )
        settings = (*data, *students, *epochs, "monitor.contact_sheet_every=0", *arguments.set)
        return load_recipe("lsp-gpu", settings)

    def seconds_left(self) -> float:
        """Until scoring has to start."""
        used = time.perf_counter() - self.start
        return float(60 * self.arguments.minutes - used - EVALUATION_SECONDS)

    def expected_seconds(self, name: str) -> float:
        """Of a student, by those before it; 0 for the first two, which are compared."""
        if name in ("labels", "both"):
            return 0.0
        done = "labels" if self.recipe.student_named(name).alpha == 0 else "both"
        epochs = self.recipe.student_named(name).epochs / self.arguments.student_epochs
        return self.results[done]["seconds"] * epochs

    def set_equal_time(self) -> None:
        """Give `labels-equal-time` the epochs that take as long as teacher, store and `both`."""
        seconds = sum(self.results[name]["seconds"] for name in ("teacher", "store", "both"))
        epochs = round(self.arguments.student_epochs * seconds / self.results["labels"]["seconds"])
        tree = self.recipe.model_dump(mode="json")
        tree["students"]["labels-equal-time"]["epochs"] = epochs
        self.recipe = Recipe.parse(tree)

    def train(self, name: str) -> None:
        self.run(name, lambda: student.run(self.work, self.recipe, self.device, name=name))

    def run(self, name: str, stage: Callable[[], Mapping[str, Any]]) -> None:
        """Run a stage, and note its seconds and what is known of its model."""
        start = time.perf_counter()
        content = stage()
        row = {"seconds": time.perf_counter() - start}
        if name == "store":
            row |= {"bytes": content["bytes"], "bytes per view": content["bytes_per_view"]}
        elif name != "evaluation":
            row |= summarize(self.work.model(name))
        self.results[name] = row
        line = ", ".join(f"{key} {format_number(value)}" for key, value in row.items())
        print(f"{name}: {line}", flush=True)
        self.write()

    def add_scores(self) -> None:
        """Add the scores of the report to the models' results."""
        report = json.loads((self.work.evaluation / "report.json").read_text("utf-8"))
        for name, model in report["models"].items():
            self.results.setdefault(name, {}).update(
                {key: model[key] for key in ("mean", "auc") if key in model}
            )
            print(name, json.dumps(self.results[name]), flush=True)

    def write(self) -> None:
        settings = {"minutes": self.arguments.minutes, "device": str(self.device)}
        write_results(self.arguments.json, "paper", self.results, **settings)


def summarize(model: ModelDir) -> dict[str, float]:
    """Of a trained model, by its metrics; the first epoch starts the loader's processes."""
    rows = [json.loads(line) for line in model.metrics.read_text("utf-8").splitlines()]
    steady = rows[1:] or rows
    return {
        "epochs": len(rows),
        "training seconds": sum(row["seconds"] for row in rows),
        "views/s": sum(row["images_per_s"] for row in steady) / len(steady),
        "waiting, %": 100 * sum(row["data_wait_fraction"] for row in steady) / len(steady),
        "peak, MB": rows[-1]["peak_memory_mb"],
        "validation PCK": 100 * max(row.get("validation_pck", 0.0) for row in rows),
    }


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder that contains lsp/ and lspet/")
    parser.add_argument("--work", type=Path, help="work directory; a temporary one by default")
    parser.add_argument("--minutes", type=float, default=7.0, help="for everything")
    parser.add_argument("--teacher-epochs", type=int, default=14, help="of the teacher")
    parser.add_argument("--student-epochs", type=int, default=20, help="of the students")
    parser.add_argument("--set", action="append", default=[], help="settings, as KEY=VALUE")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="device")
    return parser.parse_args()


if __name__ == "__main__":
    main()
