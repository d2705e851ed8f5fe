"""`fpd` in Python: load a model and predict, or run the stages.

    import fpd

    model = fpd.load("work/lsp")
    prediction = model.predict("photo.jpg", boxes=[(40, 20, 120, 260)])
    prediction.save("joints.jpg")

    fpd.train_teacher("work/lsp", "lsp", {"data.root": "datasets"})
    fpd.cache_heatmaps("work/lsp")
    fpd.train_student("work/lsp", overrides={"student.alpha": 0.9}, name="mine")
    fpd.evaluate("work/lsp")

The functions are as thin as the commands, and raise `ValueError` with what was expected, what was
found and what to do. `import fpd` imports none of this until it is used.

Shape letters: N people, K joints, H and W the image's height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .data.geometry import Geometry
from .data.io.boxes import Box
from .data.io.photos import Photos
from .data.skeletons import Skeleton
from .pipeline.config.overrides import toml
from .pipeline.config.recipe import Recipe
from .pipeline.config.sections import Loader
from .pipeline.evaluation.overlay import draw_overlay, write_image
from .pipeline.models.model_dir import ModelDir
from .pipeline.prediction.exported import READERS
from .pipeline.prediction.people import PixelSource, make_person, sample_set
from .pipeline.prediction.pose_model import PoseModel, open_model, trained_model
from .pipeline.runtime.device import choose_device, divide_cores
from .pipeline.workdir import WorkDir
from .stages import evaluate as evaluate_stage
from .stages import heatmaps as heatmaps_stage
from .stages import student as student_stage
from .stages import teacher as teacher_stage

Overrides = Mapping[str, Any]
"""Settings by dotted key, as `--set` takes them: {"student.alpha": 0.9}."""


@dataclass(frozen=True)
class Prediction:
    """The joints of the people on one image.

    Attributes:
        image: uint8 (H, W, 3) RGB, as viewers show it.
        joints: float64 (N, K, 2), x and y in pixels of `image`; the center of the top-left pixel is
            (0, 0).
        scores: float64 (N, K), height of each heatmap's peak: the model's confidence, up to about
            1.
        boxes: float64 (N, 4), the people's boxes: left edge, top edge, width, height in pixels.
        skeleton: `skeleton.joints` has the names of the K joints.
    """

    image: NDArray[np.uint8]
    joints: NDArray[np.float64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    skeleton: Skeleton

    def draw(self) -> NDArray[np.uint8]:
        """A copy of the image with joints, boxes and scores drawn over it: uint8 (H, W, 3) RGB."""
        keypoints_NK3 = np.concatenate([self.joints, self.scores[..., None]], axis=-1)
        sides_N = self.boxes[:, 2:].max(axis=1).tolist()
        return draw_overlay(self.image, keypoints_NK3, sides_N, self.skeleton, boxes_N4=self.boxes)

    def save(self, path: str | Path) -> None:
        """Write the drawing as JPEG or PNG, by the suffix of `path`.

        Raises:
            ValueError: it has another suffix, or its folder is missing.
        """
        if not Path(path).parent.is_dir():
            raise ValueError(f"{path}: expected a file in an existing folder, found no such folder")
        write_image(self.draw(), Path(path))


@dataclass(frozen=True)
class Model:
    """A model ready to predict.

    Attributes:
        name: of its folder, or of the model that was exported.
        skeleton: the joints that it predicts.
        geometry: sizes of its crops and heatmaps.
    """

    name: str
    skeleton: Skeleton = field(repr=False)
    geometry: Geometry
    _model: PoseModel = field(repr=False)

    def predict(
        self,
        image: str | Path | NDArray[np.uint8],
        boxes: Sequence[Sequence[float]] | None = None,
    ) -> Prediction:
        """Predict the joints of the people on an image.

        Args:
            image: a file, or uint8 (H, W, 3) RGB.
            boxes: of the people: (left edge, top edge, width, height) in pixels, each; None: the
                whole image is one person.

        Raises:
            ValueError: the image cannot be read, or a box is empty or outside of it.
        """
        photos = _photo(Path(image)) if isinstance(image, str | Path) else _pixels(image)
        size = photos.size(0)
        found = [None] if boxes is None else [_box(box) for box in boxes]
        people = [make_person(photos, 0, box, size) for box in found]
        samples = sample_set(photos, people, self.skeleton)
        predicted = self._model.predict(Recipe(loader=Loader(workers=0)), samples)
        pixels, _ = photos.read(0, 1.0)
        return Prediction(
            image=pixels,
            joints=predicted.joints_NK2,
            scores=predicted.peaks_NK,
            boxes=np.array([person.box.xywh for person in people], np.float64).reshape(-1, 4),
            skeleton=self.skeleton,
        )


def load(source: str | Path, name: str | None = None, device: str = "auto") -> Model:
    """Load a model to predict with.

    Args:
        source: a work directory, a model's folder, or a file that `fpd export` wrote
            (.onnx, .pt2, .tflite).
        name: of the model in a work directory; None: the student with the best validation PCK, or
            the teacher if there is no student.
        device: "auto", "cpu", "cuda" or "cuda:1"; exported files run on the CPU.

    Raises:
        ValueError: there is no such model, or its files are damaged.
    """
    path, torch_device = Path(source), choose_device(device)
    is_model = path.suffix in READERS or ModelDir(path).finished
    if not is_model and not path.is_dir():
        raise ValueError(
            f"{path}: expected a work directory, the folder of a finished model, or an exported "
            f"model ({', '.join(READERS)}), found {'another file' if path.exists() else 'nothing'}"
        )
    if name is None and is_model:
        model = open_model(path, torch_device)
    else:
        model = trained_model(WorkDir(path).model(name or _best(WorkDir(path))), torch_device)
    return Model(model.name, model.skeleton, model.geometry, model)


def train_teacher(
    work: str | Path,
    recipe: str | None = None,
    overrides: Overrides | None = None,
    *,
    device: str = "auto",
    callbacks: Sequence[str] = (),
) -> dict[str, Any]:
    """Stage 1, `fpd run teacher`: train the teacher on labels, or resume its training.

    Args:
        work: the work directory.
        recipe: a shipped recipe's name or a TOML file; None: the work directory's own.
        overrides: settings to change.
        device: "auto", "cpu", "cuda" or "cuda:1".
        callbacks: as given to `--callback`.

    Returns:
        The content of its `record.json`.
    """
    started = _start(work, recipe, overrides, device)
    return teacher_stage.run(*started, callbacks=callbacks)


def cache_heatmaps(
    work: str | Path,
    recipe: str | None = None,
    overrides: Overrides | None = None,
    *,
    device: str = "auto",
    overwrite: bool = False,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Stage 2, `fpd cache-heatmaps`: run the teacher once over every view.

    Args:
        work, recipe, overrides, device: see `train_teacher`.
        overwrite: remove an existing store first.
        allow_code: run teachers that the recipe names as Python code.

    Returns:
        Sizes and errors of the store; see `stages.heatmaps.run`.
    """
    started = _start(work, recipe, overrides, device)
    return heatmaps_stage.run(*started, overwrite=overwrite, allow_code=allow_code)


def train_student(
    work: str | Path,
    recipe: str | None = None,
    overrides: Overrides | None = None,
    *,
    name: str = "student",
    init_from: str | Path | None = None,
    device: str = "auto",
    callbacks: Sequence[str] = (),
) -> dict[str, Any]:
    """Stage 3, `fpd run student`: train a student on labels and cached heatmaps, or resume it.

    Args:
        work, recipe, overrides, device, callbacks: see `train_teacher`.
        name: of its folder, and of its entry in the recipe's `students`, if any.
        init_from: weights to start from: a .safetensors file or a model's folder.

    Returns:
        The content of its `record.json`.
    """
    started = _start(work, recipe, overrides, device)
    weights = None if init_from is None else Path(init_from)
    return student_stage.run(*started, name=name, init_from=weights, callbacks=callbacks)


def evaluate(
    work: str | Path,
    recipe: str | None = None,
    overrides: Overrides | None = None,
    *,
    device: str = "auto",
    tau: float | None = None,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Stage 4, `fpd evaluate`: score all models of the work directory on the test samples.

    Args:
        work, recipe, overrides, device: see `train_teacher`.
        tau: PCK's threshold of the means; None: the benchmark's.
        allow_code: run teachers that the recipe names as Python code.

    Returns:
        The content of `evaluation/report.json`; `["models"]["student"]["mean"]` is PCK, 0 to 1.
    """
    started = _start(work, recipe, overrides, device)
    return evaluate_stage.run(*started, tau=tau, allow_code=allow_code)


def _start(
    work: str | Path, recipe: str | None, overrides: Overrides | None, device: str
) -> tuple[WorkDir, Recipe, torch.device]:
    """A stage's arguments, as the commands prepare them."""
    directory = WorkDir(Path(work))
    settings = tuple(f"{key}={toml(value)}" for key, value in (overrides or {}).items())
    chosen = directory.recipe(recipe, settings)
    torch_device = choose_device(device)
    directory.keep(chosen)
    divide_cores(chosen.loader.workers, torch_device)
    return directory, chosen, torch_device


def _best(work: WorkDir) -> str:
    """The name of the finished student with the best validation PCK, else the teacher's."""
    scores = {
        name: model.facts().result.validation_pck or 0.0
        for name, model in work.models().items()
        if name != "teacher"
    }
    return max(scores, key=scores.__getitem__) if scores else "teacher"


def _photo(path: Path) -> Photos:
    if not path.exists():  # for a missing file, readers name a setting of data sets
        raise ValueError(f"{path}: expected an image file, found nothing")
    return Photos([path])


def _box(values: Sequence[float]) -> Box:
    try:
        box_4 = np.asarray(values, np.float64)
    except (TypeError, ValueError):  # text, or lists of different lengths
        box_4 = np.empty(0)
    if box_4.shape != (4,) or not np.isfinite(box_4).all():
        raise ValueError(
            "expected a list of boxes of four finite numbers, [(x, y, w, h), ...], found "
            f"{values!r:.80} in it"
        )
    x, y, w, h = box_4.tolist()
    return Box("image", (x, y, w, h))


def _pixels(image_HW3: NDArray[np.uint8]) -> PixelSource:
    """An image in memory.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(image_HW3, np.ndarray):
        raise ValueError(
            "expected an image as a file's name or as uint8 (H, W, 3) RGB of NumPy, found a value "
            f"of type {type(image_HW3).__name__}"
        )
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
        raise ValueError(
            f"expected an image as uint8 (H, W, 3) RGB, found {image_HW3.dtype} {image_HW3.shape}"
        )
    return PixelSource([image_HW3], ["image"])
