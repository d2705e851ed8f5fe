"""Everything that needs a GPU, in one command of known length.

    python benchmarks/gpu.py --out FOLDER [--data FOLDER] [--minutes 12] [--parts right step ...]
        [--rehearse]

The parts run one after another, each in a process of its own with a time limit:

    right    the tests of tests/gpu: results on the GPU are those on the CPU
    step     rates of a training step: cached, with the teacher in it, labels alone (step.py), at
             batches of 16 and 64, and compiled
    cache    rate of caching as a share of the teacher's passes alone (store_write.py)
    feed     share of time that training waits for data (waiting.py)
    paper    teacher 8 x 256 and students 4 x 128 at 256 pixels (paper.py), in the time that is left

A part prints as it goes, and writes FOLDER/PART.json; FOLDER/gpu.json has the card, and the seconds
and outcome of each part, and is written after every part. A part that fails or takes too long does
not stop the others. `--data` names the folder that holds lsp/ and lspet/.

`--rehearse` runs the same commands at toy size on the CPU, in a few minutes.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from _common import make_parser, product_gmacs_per_s, write_results

FOLDER = Path(__file__).resolve().parent
PYTHON = (sys.executable, "-u")
TOY_NETWORKS = (
    "--set=geometry.crop_px=64",
    *(
        f"--set={section}.{setting}"
        for section in ("teacher", "student")
        for setting in ("model.stages=1", "model.channels=8", "batch_size=4")
    ),
    "--set=data.validation=0.2",
)


@dataclass(frozen=True)
class Part:
    """One command.

    Attributes:
        limit_s: after which it is ended.
        command: what to run, by Python.
        options: added on a GPU.
        toy_options: added in a rehearsal instead.
    """

    name: str
    limit_s: float
    command: Sequence[str]
    options: Sequence[str] = ()
    toy_options: Sequence[str] = ()


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    card = describe_card(rehearse=arguments.rehearse)
    outcomes: dict[str, dict[str, float | str]] = {}
    for part in make_parts(arguments):
        if part.name.split("-")[0] not in arguments.parts:
            continue
        left = 60 * arguments.minutes - (time.perf_counter() - start)
        if left <= 0:
            print(f"== {part.name}: no time left", flush=True)
            continue
        print(f"== {part.name}: {left:.0f} s left", flush=True)
        outcomes[part.name] = run(part, left, arguments)
        print(f"== {part.name}: {outcomes[part.name]}", flush=True)
        write_results(arguments.out / "gpu.json", "gpu", outcomes, card=card)


def describe_card(*, rehearse: bool) -> dict[str, float | str]:
    """The device, and its rate on one large product of bfloat16 matrices."""
    device = torch.device("cpu" if rehearse else "cuda")
    name = "CPU" if rehearse else torch.cuda.get_device_name()
    side = 256 if rehearse else 8192
    rate = product_gmacs_per_s(device, torch.bfloat16, side)
    print(f"{name}: {2 * rate / 1e3:.1f} TFLOP/s in bfloat16", flush=True)
    return {"name": name, "bfloat16 product, TFLOP/s": 2 * rate / 1e3}


def make_parts(arguments: argparse.Namespace) -> list[Part]:
    data = () if arguments.data is None else ("--data", str(arguments.data))
    step = ("step.py", "--precision", "bfloat16", "--rounds", "3")
    toy_step = ("--teacher=1x8", "--student=1x8", "--crop=64", "--batch=2", "--rounds=1")
    return [
        Part(
            "right",
            90,
            ("-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "tests/gpu"),
            toy_options=("-k", "numerics"),
        ),
        Part("step-16", 45, (*step, "--batch", "16"), toy_options=toy_step),
        Part("step-64", 60, (*step, "--batch", "64"), toy_options=toy_step),
        Part(
            "step-compiled",
            90,
            (*step, "--batch", "64", "--kinds", "labels", "cached"),
            options=("--compile",),
            toy_options=toy_step,
        ),
        Part(
            "cache",
            60,
            ("store_write.py",),
            ("--teachers=8x256", "--views=4096", "--batch=64", "--workers=8", "--rounds=2"),
            ("--teachers=1x8", "--views=32", "--batch=4", "--rounds=1"),
        ),
        Part(
            "feed",
            75,
            ("waiting.py", *data),
            toy_options=("--student=1x8", "--crop=64", "--batch=16", "--epochs=2", "--workers=1"),
        ),
        Part(
            "paper",
            60 * arguments.minutes,
            ("paper.py", *data, "--work", str(arguments.out / "work")),
            (*(f"--set={setting}" for setting in arguments.set), *arguments.epochs),
            (*TOY_NETWORKS, "--teacher-epochs=1", "--student-epochs=1", "--minutes=2"),
        ),
    ]


def run(part: Part, left_s: float, arguments: argparse.Namespace) -> dict[str, float | str]:
    """Run a part until its limit, which a rehearsal lacks, or that of all parts."""
    limit_s = left_s if arguments.rehearse else min(part.limit_s, left_s)
    script, *options = part.command
    options += part.toy_options if arguments.rehearse else part.options
    if script.endswith(".py"):
        script = str(FOLDER / script)
        device = "cpu" if arguments.rehearse else "cuda"
        options += ["--device", device, "--json", str(arguments.out / f"{part.name}.json")]
    if part.name == "paper" and not arguments.rehearse:
        options += ["--minutes", f"{limit_s / 60:.2f}"]
    start = time.perf_counter()
    environment = os.environ | ({"FPD_GPU_TESTS_DEVICE": "cpu"} if arguments.rehearse else {})
    command = [*PYTHON, script, *options]
    with subprocess.Popen(
        command, cwd=FOLDER.parent, env=environment, start_new_session=True
    ) as process:
        try:
            outcome = f"exit status {process.wait(limit_s)}"
        except subprocess.TimeoutExpired:
            outcome = f"ended after {limit_s:.0f} s"
        finally:
            with suppress(ProcessLookupError):  # it has ended, with all that it started
                os.killpg(process.pid, signal.SIGKILL)
    return {"outcome": outcome, "seconds": time.perf_counter() - start}


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--data", type=Path, help="folder that contains lsp/ and lspet/")
    parser.add_argument("--minutes", type=float, default=12.0, help="for all parts together")
    parts = ("right", "step", "cache", "feed", "paper")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts, help="parts to run")
    parser.add_argument("--set", action="append", default=[], help="settings of the paper's runs")
    parser.add_argument("--epochs", nargs=2, type=int, help="of the paper's teacher and students")
    parser.add_argument("--rehearse", action="store_true", help="at toy size, on the CPU")
    arguments = parser.parse_args()
    names = ("--teacher-epochs", "--student-epochs")
    epochs = zip(names, map(str, arguments.epochs or ()), strict=False)
    arguments.epochs = [text for pair in epochs for text in pair]
    return arguments


if __name__ == "__main__":
    main()
