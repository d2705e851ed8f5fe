"""What a training step costs: labels alone, cached heatmaps, and the teacher run online.

    python benchmarks/step.py [--teacher 8x256] [--student 4x128] [--crop 256] [--batch 2]
        [--device cpu|cuda] [--precision float32|bfloat16] [--compile] [--rounds 5] [--threads 1]

Four kinds of step with one student, batch and device, taking turns: `labels` (eq. 3); `cached`
(eq. 5, the teacher's maps from stored bytes); `online`, done well (teacher in eval mode, no
gradients, the student's precision); `online x 2` (the same averaged with its mirrored twin, which
is what a flip-averaged store holds); `as published` (teacher in eval mode, but every tensor of it
with a gradient, as the paper's authors' code runs it). All by the project's own step, from uint8
crops in memory to the optimizer's update. Ratios are medians over rounds of the ratio within one.

`by GMACs` is what arithmetic predicts: (passes x teacher + 3 x student) / 3 x student, a backward
pass taking two forward ones. `peak` is the most memory a step takes over what was there before it,
in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import heatmaps_like_a_teachers, number, print_table, rates, write_json
from torch import Tensor, nn

from fpd.pipeline.config.sections import Student, Targets
from fpd.pipeline.models.complexity import count
from fpd.pipeline.models.hourglass import HourglassSettings
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.store import compress
from fpd.pipeline.training.checkpoint import TrainingState
from fpd.pipeline.training.losses import distillation_loss
from fpd.pipeline.training.objective import Batch, Losses, Objective, amplitude_factors
from fpd.pipeline.training.optimizers import make_optimizer, make_schedule
from fpd.pipeline.training.step import autocast, train_step

JOINTS = 16
MIRROR = tuple(reversed(range(JOINTS)))  # any pairing costs the same
TARGETS = Targets(sigma_px=2.0)
KINDS = ("labels", "cached", "online", "online x 2", "as published")
PASSES = {"online": 1, "online x 2": 2, "as published": 1}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="8x256", help="stages x channels (default 8x256)")
    parser.add_argument("--student", default="4x128", help="stages x channels (default 4x128)")
    parser.add_argument("--crop", type=int, default=256, help="pixels (default 256)")
    parser.add_argument("--batch", type=int, default=2, help="views a step (default 2)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda")
    parser.add_argument("--precision", default="float32", help="float32 (default), bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile both networks")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU (default 1)")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="steps to take")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def model(size: str) -> HourglassSettings:
    stages, channels = (int(part) for part in size.split("x"))
    return HourglassSettings(stages=stages, channels=channels)


class Online:
    """The loss with a teacher in the step. Its batch has the maps, asked for before the step."""

    def __init__(self, student: Student, heatmap_px: int) -> None:
        self.student = student
        self.labels = Objective(TARGETS, heatmap_px)

    def __call__(self, stages: list[Tensor], batch: Batch) -> Losses:
        labels, weights = self.labels.render(batch, stages[-1].device)
        maps = batch["teacher"]
        scale = amplitude_factors(maps.detach().amax((-2, -1)), self.student)
        target = maps * scale[..., None, None]
        loss = distillation_loss(stages, labels, weights, target, self.student.alpha).loss
        return Losses(loss, loss.detach())


class Bench:
    """A student, a teacher, and a batch in memory, as a loader brings it."""

    def __init__(self, given: argparse.Namespace) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(given.threads)
        self.device = torch.device(given.device)
        self.training = Student(
            model=model(given.student), precision=given.precision, batch=given.batch
        )
        self.teacher = self._place(model(given.teacher).build(JOINTS), given.compile).eval()
        network = self._place(self.training.model.build(JOINTS), given.compile)
        optimizer = make_optimizer(self.training, network)
        schedule = make_schedule(self.training, optimizer, 1_000_000)
        self.state = TrainingState(network, optimizer, schedule)
        self.heatmap_px = given.crop // 4
        self.batch = self._batch(given.batch, given.crop)
        self.predictor = make_predictor(self.teacher, self.device, None)
        self.ask_twice = make_predictor(self.teacher, self.device, MIRROR)

    def _place(self, network: nn.Module, compiled: bool) -> nn.Module:
        network = network.to(device=self.device, memory_format=torch.channels_last)
        if compiled:
            network.compile()
        return network

    def _batch(self, views: int, crop_px: int) -> dict[str, Tensor]:
        maps = heatmaps_like_a_teachers(views)[..., : self.heatmap_px, : self.heatmap_px]
        coded = compress(maps, 0.1)
        batch = {
            "crop": torch.randint(0, 256, (views, crop_px, crop_px, 3), dtype=torch.uint8),
            "joints": torch.rand(views, JOINTS, 2) * self.heatmap_px,
            "coefficients": coded.coefficients,
            "steps": coded.steps,
            "peaks": coded.peaks,
            "mirrored": torch.arange(views) % 2 == 0,
        }
        pinned = self.device.type == "cuda"
        return {key: values.pin_memory() if pinned else values for key, values in batch.items()}

    def step(self, kind: str, _: int = 0) -> int:
        """Take one step; returns its views."""
        objective: Any = Online(self.training, self.heatmap_px)
        batch = self.batch
        if kind == "labels":
            objective = Objective(TARGETS, self.heatmap_px)
        elif kind == "cached":
            objective = Objective(TARGETS, self.heatmap_px, self.training, MIRROR)
        else:
            batch = batch | {"teacher": self._maps(kind)}
        train_step(
            *(self.state, self.state.network, objective, self.training, batch), 1.0, self.device
        )
        self.teacher.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return len(batch["crop"])

    def _maps(self, kind: str) -> Tensor:
        with autocast(self.training, self.device):
            if kind == "as published":
                said: Tensor = self.teacher(normalize(self.batch["crop"], self.device))[-1]
                return said.float()
            with torch.no_grad():
                return (self.predictor if kind == "online" else self.ask_twice)(self.batch["crop"])


def peak_mb(given: argparse.Namespace, kind: str) -> float:
    """Memory of a step, MB, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_peak_mb, (given, kind)))


def _peak_mb(given: argparse.Namespace, kind: str) -> float:
    bench = Bench(given)
    if given.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        bench.step(kind)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak of the set-up
    before = _status_kb("VmRSS")
    bench.step(kind)
    return (_status_kb("VmHWM") - before) * 1024 / 1e6


def _status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def predicted(given: argparse.Namespace) -> dict[str, float]:
    """Cost of each kind of step, as a multiple of that with labels alone, by GMACs."""
    student, teacher = (
        count(model(size), JOINTS, given.crop)[1] for size in (given.student, given.teacher)
    )
    return {kind: 1 + PASSES.get(kind, 0) * teacher / (3 * student) for kind in KINDS}


def main() -> None:
    given = options()
    bench = Bench(given)
    cases: dict[str, Callable[[int], int]] = {k: partial(bench.step, k) for k in given.kinds}
    found = rates(cases, given.rounds)
    by_gmacs = predicted(given)
    results = {}
    for kind in given.kinds:
        ratios = [a / b for a, b in zip(found["labels"], found[kind], strict=True)]
        results[kind] = {
            "ms a view": 1e3 / statistics.median(found[kind]),
            "x labels": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "by GMACs": by_gmacs[kind],
            "peak, MB": peak_mb(given, kind),
        }
    if "cached" in found:
        for kind in given.kinds:
            ratios = [a / b for a, b in zip(found["cached"], found[kind], strict=True)]
            results[kind]["x cached"] = statistics.median(ratios)
    columns = list(results[given.kinds[0]])
    print_table(
        ["step", *columns],
        [[kind, *(number(row[column]) for column in columns)] for kind, row in results.items()],
    )
    about = {key: value for key, value in vars(given).items() if key != "json"}
    write_json(given.json, "step", results, **about)


if __name__ == "__main__":
    main()
