"""Effect of encoding on students: the same student on exact and on encoded teacher heatmaps.

    python benchmarks/store_student.py -w work/lsp --set store.views=4 \\
        --code exact pixels:0.01 store:0.1 --seeds 0 1

The teacher of the work directory is run once on every stored view (flips are among a view's
parameters: not flip-averaged), and its float32 output is kept in a file (1 GB for 4,750 samples,
four views of 14 x 32 x 32). Every student trains on this output, after it went through a code:

    exact        float32, unchanged
    pixels:E     rounded to steps of 2 E of the heatmap's peak (of 0.1 where the peak is lower)
    store:E      `compress` and `decompress` with max_error E

Prints PCK on the validation and test samples. Students are kept in `OUT/CODE-SEED`; existing ones
are not trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import CPU, make_parser, write_results
from numpy.typing import NDArray
from torch import Tensor

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.data.views import Views
from fpd.pipeline.config.recipe import Recipe, stored_views
from fpd.pipeline.config.sections import Student
from fpd.pipeline.evaluation.inference import score
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.runtime.files import atomic
from fpd.pipeline.store import compress, decompress
from fpd.pipeline.store.compression import FAINT_PEAK
from fpd.pipeline.training.dataset import TrainingData
from fpd.pipeline.training.objective import Batch, Objective, amplitude_factors
from fpd.pipeline.training.train import train_model
from fpd.pipeline.workdir import WorkDir

BATCH_SIZE = 32


def main() -> None:
    torch.set_num_threads(1)
    arguments = parse_arguments()
    work = WorkDir(arguments.work)
    recipe = work.recipe(None, (*arguments.overrides, "store.flip_averaged=false"))
    out = WorkDir(arguments.out or work.root / "store-student")
    out.root.mkdir(parents=True, exist_ok=True)
    samples = {part: load(recipe.data, part) for part in ("train", "validation", "test")}
    heatmaps = teacher_heatmaps(work, recipe, samples["train"], out.root / "heatmaps.npy")
    results = []
    print("code            seed  validation   test")
    for seed in arguments.seeds:
        for code in arguments.code:
            validation, test = train_student(out, recipe, samples, heatmaps, code, seed)
            print(f"{code:16}{seed:4}{100 * validation:12.1f}{100 * test:7.1f}", flush=True)
            results.append({"code": code, "seed": seed, "validation": validation, "test": test})
    write_results(arguments.json, "store_student", results, overrides=arguments.overrides)


def teacher_heatmaps(
    work: WorkDir, recipe: Recipe, samples: SampleSet, path: Path
) -> NDArray[np.float32]:
    """The teacher's output for all stored views, float32 (views, samples, K, H, W), mapped."""
    if not path.is_file():
        predictor = make_predictor(load_model(work.teacher, CPU).network, CPU, None)
        views = stored_views(recipe, samples)
        size = recipe.geometry.heatmap_px
        shape = (recipe.store.views, len(samples), samples.skeleton.num_joints, size, size)
        with atomic(path) as temporary, torch.inference_mode():
            file = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            for view in range(shape[0]):
                for start in range(0, shape[1], BATCH_SIZE):
                    rows = range(start, min(start + BATCH_SIZE, shape[1]))
                    crops = np.stack([views[index, view]["crop"] for index in rows])
                    heatmaps = predictor(torch.from_numpy(crops))
                    file[view, rows.start : rows.stop] = heatmaps.numpy()
            file.flush()
    return np.load(path, mmap_mode="r")


class ExactViews(torch.utils.data.Dataset[dict[str, Any]]):
    """Views with the teacher's exact heatmaps."""

    def __init__(self, views: Views, heatmaps: NDArray[np.float32]) -> None:
        self.views, self.heatmaps = views, heatmaps

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, view = key
        return {**self.views[key], "teacher": np.array(self.heatmaps[view, index])}


@dataclass(frozen=True)
class CodedObjective(Objective):
    """The student's loss with the teacher's heatmaps after encoding and decoding by `code`."""

    code: str = "exact"

    def _teacher_target(
        self, student: Student, batch: Batch, label_weights_BK: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        heatmaps = batch["teacher"].to(label_weights_BK.device)
        peaks = heatmaps.amax((-1, -2)).clamp_min(0)
        factors = amplitude_factors(peaks, student)
        return encode_and_decode(heatmaps, self.code) * factors[..., None, None], None


def encode_and_decode(heatmaps_BKHW: Tensor, code: str) -> Tensor:
    """Heatmaps as they come back from a code."""
    kind, _, max_error = code.partition(":")
    if kind == "exact":
        return heatmaps_BKHW
    if kind == "store":
        encoded = compress(heatmaps_BKHW, float(max_error))
        return decompress(encoded.coefficients, encoded.steps, heatmaps_BKHW.shape[-1])
    unit = heatmaps_BKHW.amax((-1, -2), keepdim=True).clamp_min(FAINT_PEAK)
    step = 2 * float(max_error) * unit
    return (heatmaps_BKHW.clamp_min(0) / step).round() * step


def train_student(
    out: WorkDir,
    recipe: Recipe,
    samples: dict[str, SampleSet],
    heatmaps: NDArray[np.float32],
    code: str,
    seed: int,
) -> tuple[float, float]:
    """PCK on the validation and test samples of a student trained on heatmaps coded by `code`."""
    training = recipe.student.model_copy(update={"seed": seed})
    objective = CodedObjective(
        recipe.targets, recipe.geometry.heatmap_px, training, loss=training.loss, code=code
    )
    folder = out.student(f"{code.replace(':', '-')}-{seed}")
    data = TrainingData(
        samples=samples["train"],
        validation=samples["validation"],
        dataset=ExactViews(stored_views(recipe, samples["train"]), heatmaps),
        views=recipe.store.views,
        inputs={"code": code},
    )
    record = train_model(folder, recipe, training, objective, data, CPU)
    network = load_model(folder, CPU).network
    return record["result"]["validation_pck"], score(network, recipe, samples["test"], CPU).mean


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("-w", "--work", type=Path, required=True, help="has the trained teacher")
    parser.add_argument("--out", type=Path, help="for the students; none: WORK/store-student")
    parser.add_argument("--code", nargs="+", default=["exact", "store:0.1"], help="as listed above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the students")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="settings, as in `fpd run`"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
