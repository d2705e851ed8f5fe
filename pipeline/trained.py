"""A finished model for use without its data set: all that its own folder says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ..data.skeletons import LSP, MPII, Skeleton
from ..data.views import Geometry
from .models import AnyModel, parse_model
from .recipe import Recipe
from .training.train import load_model
from .workdir import ModelDir, WorkDir

READER_SKELETONS = {"lsp": LSP, "lspet": LSP, "lsp+lspet": LSP, "figures": LSP, "mpii": MPII}
"""Of models trained before records had the skeleton: these were all the readers there were."""

_skeletons = TypeAdapter(Skeleton)


@dataclass(frozen=True)
class Trained:
    """A finished model.

    Attributes:
        name: its folder's.
        network: in `eval()`, from normalised crops to a list of heatmaps; see `models`.
        model, geometry: what it was built and trained with.
        skeleton: what its K heatmaps are of.
        weights_sha256: of its weights file, as its record has it.
    """

    name: str
    network: nn.Module
    model: AnyModel
    geometry: Geometry
    skeleton: Skeleton
    weights_sha256: str

    def recipe(self, recipe: Recipe) -> Recipe:
        """A recipe with this model's geometry, as predicting needs it."""
        return recipe.model_copy(update={"geometry": self.geometry})


def find_model(work: WorkDir, name: str) -> ModelDir:
    """A finished model's folder.

    Raises:
        ValueError: there is none of this name; the message lists those there are.
    """
    models = work.models()
    if name not in models:
        listed = ", ".join(models) or "none"
        train = "fpd run teacher" if name == "teacher" else f"fpd run student --name {name}"
        raise ValueError(
            f"{work.root} has no finished model {name!r} (finished: {listed}): choose one of them "
            f"with --name, or run `{train} -w {work.root}`"
        )
    return models[name]


def load_trained(folder: ModelDir, recipe: Recipe, device: torch.device) -> Trained:
    """Load a finished model.

    Args:
        recipe: the work directory's; its reader tells the skeleton of models of which the record
            does not.

    Raises:
        ValueError: the record or the weights are missing, damaged, or of another kind, or the
            network cannot be built here.
    """
    record = folder.record()
    try:
        settings = record["identity"]["settings"]
        geometry = Geometry.model_validate(settings["geometry"])
        chosen = settings["training"]["model"]
        skeleton = _skeleton(record["result"], recipe)
        weights_sha256 = str(record["result"]["weights_sha256"])
    except (KeyError, TypeError, ValidationError) as error:
        what = type(error).__name__
        raise ValueError(
            f"{folder.record_path} is damaged ({what}): remove {folder.path} and train it again"
        ) from None
    network = load_model(folder, skeleton.num_joints, device)
    model = parse_model(chosen)
    return Trained(folder.name, network, model, geometry, skeleton, weights_sha256)


def _skeleton(result: dict[str, Any], recipe: Recipe) -> Skeleton:
    """The recorded skeleton; of a record without one, the recipe's reader's."""
    if "skeleton" in result:
        return _skeletons.validate_python(result["skeleton"])
    return READER_SKELETONS[recipe.data.reader]
