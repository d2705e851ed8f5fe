"""What storing does to a student: the same student on exact and on stored targets.

    python benchmarks/store_student.py -w work/lsp --set store.views=4 \\
        --code exact pixels:0.01 store:0.1 --seeds 0 1

The teacher of the work directory answers once for every stored view (the mirror is one of a view's
parameters: not flip-averaged), in float32, into a file (1 GB for 4,750 people, four views of
14 x 32 x 32); every student then trains on those very answers, put through a code on the way into
the loss:

    exact        float32 as the teacher said it
    pixels:E     rounded to steps of 2 E of the map's peak (of 0.1 where that is higher)
    store:E      `compress` and `decompress` with max_error E

Prints PCK on validation and test people. Students lie in `OUT/CODE-SEED` and are not trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from fpd.pipeline.store import compress, decompress
from fpd.pipeline.store.compression import FAINT_PEAK
from fpd.pipeline.training.objective import Batch, Objective, amplitude_factors
from fpd.pipeline.training.train import train_model
from fpd.pipeline.workdir import WorkDir

CPU = torch.device("cpu")
BATCH = 32


def main() -> None:
    torch.set_num_threads(1)
    arguments = _arguments()
    work = WorkDir(arguments.work)
    recipe = work.recipe(None, (*arguments.overrides, "store.flip_averaged=false"))
    out = WorkDir(arguments.out or work.root / "store-student")
    out.root.mkdir(parents=True, exist_ok=True)
    people = {part: load(recipe.data, part) for part in ("train", "validation", "test")}
    said = answers(work, recipe, people["train"], out.root / "answers.npy")
    print("code            seed  validation   test")
    for seed in arguments.seeds:
        for code in arguments.code:
            validation, test = student(out, recipe, people, said, code, seed)
            print(f"{code:16}{seed:4}{100 * validation:12.1f}{100 * test:7.1f}", flush=True)


def answers(work: WorkDir, recipe: Recipe, samples: SampleSet, path: Path) -> NDArray[np.float32]:
    """float32 (views, people, K, H, W): what the teacher says of every stored view."""
    if path.is_file():
        return np.load(path, mmap_mode="r")
    network = load_model(work.teacher, CPU).network
    predictor = make_predictor(network, CPU, None)
    views = stored_views(recipe, samples)
    size = recipe.geometry.heatmap_px
    shape = (recipe.store.views, len(samples), samples.skeleton.num_joints, size, size)
    temporary = path.with_suffix(".tmp")
    file = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
    with torch.inference_mode():
        for view in range(shape[0]):
            for start in range(0, shape[1], BATCH):
                rows = range(start, min(start + BATCH, shape[1]))
                crops = np.stack([views[index, view]["crop"] for index in rows])
                file[view, rows.start : rows.stop] = predictor(torch.from_numpy(crops)).numpy()
    file.flush()
    temporary.rename(path)
    return np.load(path, mmap_mode="r")


class AnsweredViews(torch.utils.data.Dataset[dict[str, Any]]):
    """Views with the teacher's exact answers."""

    def __init__(self, views: Views, said: NDArray[np.float32]) -> None:
        self.views, self.said = views, said

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, view = key
        return {**self.views[key], "said": np.array(self.said[view, index])}


@dataclass(frozen=True)
class CodedObjective(Objective):
    """The student's loss, the teacher's answers having been stored in `code`."""

    code: str = "exact"

    def _teacher(
        self, student: Student, batch: Batch, label_weights_BK: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        said = batch["said"].to(label_weights_BK.device)
        peaks = said.amax((-1, -2)).clamp_min(0)
        factors = amplitude_factors(peaks, student)
        return through(said, self.code) * factors[..., None, None], None


def through(said_BKHW: Tensor, code: str) -> Tensor:
    """Heatmaps as they come back from a code."""
    kind, _, bound = code.partition(":")
    if kind == "exact":
        return said_BKHW
    if kind == "store":
        coded = compress(said_BKHW, float(bound))
        return decompress(coded.coefficients, coded.steps, said_BKHW.shape[-1])
    step = 2 * float(bound) * said_BKHW.amax((-1, -2), keepdim=True).clamp_min(FAINT_PEAK)
    return (said_BKHW.clamp_min(0) / step).round() * step


def student(
    out: WorkDir,
    recipe: Recipe,
    people: dict[str, SampleSet],
    said: NDArray[np.float32],
    code: str,
    seed: int,
) -> tuple[float, float]:
    """PCK on validation and test people of a student on targets in `code`."""
    training = recipe.student.model_copy(update={"seed": seed})
    objective = CodedObjective(recipe.targets, recipe.geometry.heatmap_px, training, code=code)
    folder = out.student(f"{code.replace(':', '-')}-{seed}")
    record = train_model(
        folder,
        recipe,
        training,
        objective,
        AnsweredViews(stored_views(recipe, people["train"]), said),
        people,
        recipe.store.views,
        {"code": code},
        CPU,
    )
    network = load_model(folder, CPU).network
    return record["result"]["validation_pck"], score(network, recipe, people["test"], CPU).mean


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-w", "--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--code", nargs="+", default=["exact", "store:0.1"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
