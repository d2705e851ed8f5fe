"""One form of all models that people predict with: trained ones, and exported files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ...data.geometry import Geometry
from ...data.samples import SampleSet
from ...data.skeletons import Skeleton
from ..config.recipe import Recipe
from ..evaluation.inference import NO_TTA, PredictedJoints, predict, predict_exported
from ..models.checkpoint import load_model
from ..models.model_dir import ModelDir
from ..runtime.interrupt import Stop
from .exported import READERS, ExportedModel, read_exported


@dataclass(frozen=True)
class PoseModel:
    """A model ready to predict.

    Attributes:
        name: of its folder, or of the model that was exported.
        skeleton: the joints that it predicts.
        geometry: sizes of its crops and heatmaps.
    """

    name: str
    skeleton: Skeleton
    geometry: Geometry
    _run: Callable[[Recipe, SampleSet, Stop | None], PredictedJoints]

    def predict(
        self, recipe: Recipe, samples: SampleSet, stop: Stop | None = None
    ) -> PredictedJoints:
        """Predict the joints of all samples, which are in this model's order.

        Args:
            recipe: its `loader` and `evaluation` count; its geometry is replaced by the model's.
            stop: checked after every batch.

        Raises:
            ValueError: an image cannot be read, or `evaluation` asks for more than one pass of an
                exported file.
            Interrupted: if `stop` is set.
        """
        return self._run(recipe.with_geometry(self.geometry), samples, stop)


def open_model(path: Path, device: torch.device) -> PoseModel:
    """Load an exported file, or a trained model's folder.

    Raises:
        ValueError: it is neither, or damaged.
    """
    if path.suffix in READERS:
        return exported_model(read_exported(path))
    folder = ModelDir(path)
    if not folder.finished:
        raise ValueError(
            f"{path}: expected an exported model ({', '.join(READERS)}) or the folder of a "
            "finished one, such as work/lsp/student, found neither"
        )
    return trained_model(folder, device)


def trained_model(folder: ModelDir, device: torch.device) -> PoseModel:
    """Load the model in a folder.

    Raises:
        ValueError: it is unfinished or damaged.
    """
    trained = load_model(folder, device)

    def run(recipe: Recipe, samples: SampleSet, stop: Stop | None) -> PredictedJoints:
        return predict(trained.network, recipe, samples, device, stop=stop, tta=recipe.evaluation)

    return PoseModel(trained.name, trained.skeleton, trained.geometry, run)


def exported_model(exported: ExportedModel) -> PoseModel:
    """A file that `fpd export` wrote, run on the CPU."""

    def run(recipe: Recipe, samples: SampleSet, stop: Stop | None) -> PredictedJoints:
        if recipe.evaluation != NO_TTA:
            raise ValueError(
                f"{exported.path} runs one pass per person, and decodes it itself: leave out "
                "--flip-test and --scales"
            )
        return predict_exported(exported.run, recipe, samples, stop)

    return PoseModel(exported.name, exported.skeleton, exported.geometry, run)
