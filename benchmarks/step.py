"""Cost of a training step: on labels only, with cached heatmaps, and with the teacher in the step.

    python benchmarks/step.py [--teacher 8x256] [--student 4x128] [--crop 256] [--batch 2]
        [--device cpu|cuda] [--precision float32|bfloat16] [--compile] [--no-graphs]
        [--rounds 5] [--threads 1] [--json OUT]

The kinds of step take turns, with the same student, batch and device:

    labels         eq. 3
    cached         eq. 5, with the teacher's heatmaps decoded from stored bytes
    online         eq. 5, with the teacher run efficiently: in eval mode, without gradients, in the
                   student's precision
    online x 2     the same, flip-averaged, as stores are by default
    as published   teacher in eval mode, but with gradients for all its tensors, as in the code of
                   the paper's authors

All run the project's own training step, from uint8 crops in memory to the optimizer's update.
Ratios are medians over rounds of the ratio within a round.

`by GMACs` is the predicted ratio, (passes x teacher + 3 x student) / 3 x student: a backward pass
takes twice the operations of a forward pass. `peak` is the memory that a step needs in addition to
what was allocated before it, on a CPU measured in a separate process. `floor` is the share of its
time that a step's operations would take at the rate of one large convolution in this precision.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import (
    JOINTS,
    MAX_ERROR,
    SIGMA_PX,
    OnlineObjective,
    Results,
    convolution_gmacs_per_s,
    hourglass,
    make_parser,
    measure_rates,
    median_ratio,
    print_results,
    process_memory_kib,
    synchronize,
    teacher_like_heatmaps,
    write_results,
)
from torch import Tensor, nn

from fpd.pipeline.config.sections import Student, Targets
from fpd.pipeline.models.complexity import count
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.store import compress
from fpd.pipeline.training.checkpoint import TrainingState
from fpd.pipeline.training.objective import Objective
from fpd.pipeline.training.optimizers import make_lr_scheduler, make_optimizer
from fpd.pipeline.training.step import autocast, replayed, train_step

FLIP_INDICES = tuple(reversed(range(JOINTS)))  # any pairs take the same time
TARGETS = Targets(sigma_px=SIGMA_PX)
TEACHER_PASSES = {"labels": 0, "cached": 0, "online": 1, "online x 2": 2, "as published": 1}
"""By kind of step."""


STEPS_PER_WAIT = {"cpu": 1, "cuda": 10}
"""Steps between waits for the device; the training loop reads losses every tenth step."""

MIN_SECONDS = 0.3  # of a kind in each round


def main() -> None:
    arguments = parse_arguments()
    results = measure(arguments)
    print_results("step", results)
    settings = {key: value for key, value in vars(arguments).items() if key != "json"}
    write_results(arguments.json, "step", results, **settings)


def measure(arguments: argparse.Namespace) -> Results:
    """The table: a row for each kind of step."""
    steps = StepBenchmark(arguments)
    dtype = torch.bfloat16 if arguments.precision == "bfloat16" else torch.float32
    gmacs_per_s = convolution_gmacs_per_s(steps.device, dtype, arguments.batch, MIN_SECONDS)
    cases = {kind: partial(steps.run, kind) for kind in arguments.kinds}
    rates = measure_rates(cases, arguments.rounds, MIN_SECONDS)
    return {kind: summarize(kind, rates, steps, gmacs_per_s) for kind in arguments.kinds}


def summarize(
    kind: str, rates: dict[str, list[float]], steps: StepBenchmark, gmacs_per_s: float
) -> dict[str, float]:
    """One row of the table."""
    arguments, rate = steps.arguments, statistics.median(rates[kind])
    row = {"views/s": rate, "ms per view": 1e3 / rate}
    if "labels" in rates:
        ratios = [a / b for a, b in zip(rates["labels"], rates[kind], strict=True)]
        row |= {
            "/ labels": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    if "cached" in rates:
        row["/ cached"] = median_ratio(rates["cached"], rates[kind])
    student = count(hourglass(arguments.student), JOINTS, arguments.crop)[1]
    ratio = predicted_ratio(kind, arguments)
    return row | {
        "by GMACs": ratio,
        "floor, %": 100 * rate * 3 * student * ratio / gmacs_per_s,
        "peak, MB": steps.peak_mb(kind),
    }


def predicted_ratio(kind: str, arguments: argparse.Namespace) -> float:
    """Operations of a step as a multiple of those of a step on labels only."""
    student, teacher = (
        count(hourglass(size), JOINTS, arguments.crop)[1]
        for size in (arguments.student, arguments.teacher)
    )
    return 1 + TEACHER_PASSES[kind] * teacher / (3 * student)


class StepBenchmark:
    """A student, a teacher, and a batch in memory as a loader delivers it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        torch.manual_seed(0)
        torch.set_num_threads(arguments.threads)
        self.device = torch.device(arguments.device)
        self.training = Student(
            model=hourglass(arguments.student),
            precision=arguments.precision,
            batch_size=arguments.batch,
            compile=arguments.compile,
            cuda_graphs=not arguments.no_graphs,
        )
        teacher = hourglass(arguments.teacher).build(JOINTS)
        self.teacher = self._prepare(teacher, arguments.compile).eval()
        student = self._prepare(self.training.model.build(JOINTS), arguments.compile)
        self.network = replayed(student, self.training, self.device)
        optimizer = make_optimizer(self.training, student)
        scheduler = make_lr_scheduler(self.training, optimizer, 1_000_000)
        self.state = TrainingState(student, optimizer, scheduler)
        self.heatmap_px = arguments.crop // 4
        self.batch = self._make_batch(arguments.batch, arguments.crop)
        self.objectives: dict[str, Any] = {
            "labels": Objective(TARGETS, self.heatmap_px),
            "cached": Objective(TARGETS, self.heatmap_px, self.training, FLIP_INDICES),
        }
        self.online_objective: Any = OnlineObjective(self.training, TARGETS, self.heatmap_px)
        # With gradients for its tensors, as published, the teacher is another one.
        online = self._prepare(hourglass(arguments.teacher).build(JOINTS), arguments.compile)
        online = replayed(online.eval().requires_grad_(False), self.training, self.device)
        self.predictors = {
            "online": make_predictor(online, self.device, None),
            "online x 2": make_predictor(online, self.device, FLIP_INDICES),
        }

    def _prepare(self, network: nn.Module, compiled: bool) -> nn.Module:
        network = network.to(device=self.device, memory_format=torch.channels_last)
        if compiled:
            network.compile()
        return network

    def _make_batch(self, views: int, crop_px: int) -> dict[str, Tensor]:
        heatmaps = teacher_like_heatmaps(views)[..., : self.heatmap_px, : self.heatmap_px]
        encoded = compress(heatmaps, MAX_ERROR)
        batch = {
            "crop": torch.randint(0, 256, (views, crop_px, crop_px, 3), dtype=torch.uint8),
            "joints": torch.rand(views, JOINTS, 2) * self.heatmap_px,
            "coefficients": encoded.coefficients,
            "steps": encoded.steps,
            "peaks": encoded.peaks,
            "flipped": torch.arange(views) % 2 == 0,
        }
        pinned = self.device.type == "cuda"
        return {key: values.pin_memory() if pinned else values for key, values in batch.items()}

    def run(self, kind: str, _: int = 0) -> int:
        """Take steps until the device is waited for; returns the number of their views."""
        steps = STEPS_PER_WAIT[self.device.type]
        for _ in range(steps):
            self._step(kind, self.network)
        synchronize(self.device)
        return steps * self.training.batch_size

    def _step(self, kind: str, network: nn.Module) -> None:
        objective, batch = self.objectives.get(kind), self.batch
        if objective is None:
            objective = self.online_objective
            batch = batch | {"teacher": self._run_teacher(kind)}
        train_step(self.state, self.network, objective, self.training, batch, 1.0, self.device)
        self.teacher.zero_grad(set_to_none=True)

    def _run_teacher(self, kind: str) -> Tensor:
        """float32 (B, K, H, W)."""
        crop = self.batch["crop"]
        with autocast(self.training, self.device):
            if kind == "as published":
                heatmaps: Tensor = self.teacher(normalize(crop, self.device))[-1]
                return heatmaps.float()
            with torch.no_grad():
                return self.predictors[kind](crop)

    def peak_mb(self, kind: str) -> float:
        """Memory of a step in MB; on a GPU of one without CUDA graphs, which keep as much."""
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self._step(kind, self.state.network)
            return (torch.cuda.max_memory_allocated() - before) / 1e6
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return float(pool.apply(_peak_mb_alone, (kind, self.arguments)))


def _peak_mb_alone(kind: str, arguments: argparse.Namespace) -> float:
    """The growth of a process that takes one step."""
    steps = StepBenchmark(arguments)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc_pid_clear_refs(5)
    before = process_memory_kib("VmRSS")
    steps.run(kind)
    return (process_memory_kib("VmHWM") - before) * 1024 / 1e6


def parse_arguments(options: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, or these options."""
    parser = make_parser(__doc__)
    parser.add_argument("--teacher", default="8x256", help="stages x channels")
    parser.add_argument("--student", default="4x128", help="stages x channels")
    parser.add_argument("--crop", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--batch", type=int, default=2, help="views per step")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="device")
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "bfloat16"), help="of the networks"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile both networks")
    parser.add_argument("--no-graphs", action="store_true", help="without CUDA graphs")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads on a CPU")
    kinds = tuple(TEACHER_PASSES)
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds, help="steps to time")
    return parser.parse_args(options)


if __name__ == "__main__":
    main()
